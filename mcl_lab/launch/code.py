"""The code that runs go by: which commit it is, and a copy of it for jobs that start later."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

PARTS = ("run.py", "conf", "mcl_lab", "sweeps")  # what a run needs of the house
RECORD, CHANGES = "snapshot.json", "changes.diff"
CONFIG_DIR = "config_dir"  # in a snapshot: the folder that --config-dir named


def commit_of(house: Path) -> str:
    """The commit of the code in `house`, with `+changes` when files differ from it; `unknown` outside a git checkout.

    A snapshot is of the commit that it was taken from.
    """
    record = house / RECORD
    if record.exists():
        return json.loads(record.read_text(encoding="utf-8"))["commit"]
    try:
        commit = _git(house, "rev-parse", "HEAD").strip()
        return commit + ("+changes" if _git(house, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def take_snapshot(house: Path, into: Path, *, plugins: Iterable[str] = (), config_dir: Path | None = None) -> Path:
    """Copy the code in `house`, packages of plugins by their names and a folder of configs into a folder in `into` that is
    named by what it holds, and return it; one that is there already is used again.

    Beside the code lie snapshot.json, which names its commit, and changes.diff, how it differs from that. A plugin that is
    installed like a library is left where it is. Of the folder of configs only YAML files are taken, and user and password
    are taken out of URIs in any. Raises OSError.
    """
    sources = {part: house / part for part in PARTS if (house / part).exists()}
    tops = {name.partition(".")[0] for name in plugins}
    sources |= {name: place for name in sorted(tops) if (place := _own_package(name))}
    files = {name: path for part, place in sources.items() for name, path in _files(part, place, into).items()}
    if config_dir:
        found = _files(CONFIG_DIR, config_dir, into)
        files |= {name: path for name, path in found.items() if name.endswith(".yaml")}
    notes = {RECORD: json.dumps({"commit": commit_of(house)}) + "\n", CHANGES: _without_credentials(_changes(house))}
    folder = into / _digest(files, notes)
    if folder.exists():
        return folder
    unfinished = into / f".{folder.name}.{os.getpid()}"
    for name, path in files.items():
        target = unfinished / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".yaml"):
            target.write_text(_without_credentials(path.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copyfile(path, target)
        shutil.copymode(path, target)  # what is not for everybody stays so
    for name, text in notes.items():
        (unfinished / name).write_text(text, encoding="utf-8")
    unfinished.rename(folder)
    return folder


def _files(part: str, place: Path, snapshots: Path) -> dict[str, Path]:
    """The files of a part, by their names in the snapshot; none that Python or an editor left behind, nor those in a folder
    that holds the snapshots."""
    if place.is_file():
        return {part if part.endswith(".py") else f"{part}.py": place}
    found = {}
    for folder, subfolders, names in os.walk(place):
        subfolders[:] = sorted(
            name
            for name in subfolders
            if name != "__pycache__"
            and not name.startswith(".")
            and not snapshots.resolve().is_relative_to(Path(folder, name).resolve())
        )
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and not name.endswith(".pyc") and path.is_file():
                found[f"{part}/{path.relative_to(place)}"] = path
    return found


def _without_credentials(text: str) -> str:
    return re.sub(r"://[^/\s'\"]*@", "://", text)


def _own_package(name: str) -> Path | None:
    """Where a package or module lies, unless it is installed; it is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None and not spec.submodule_search_locations:
        return None
    place = Path(spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin)
    installed = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")]
    return None if any(place.is_relative_to(folder) for folder in installed) else place


def _digest(files: Mapping[str, Path], notes: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name, path in sorted(files.items()):
        digest.update(json.dumps([name, hashlib.sha256(path.read_bytes()).hexdigest()]).encode())
    return digest.hexdigest()[:12]


def _changes(house: Path) -> str:
    """How the code differs from its commit, new files in full."""
    try:
        new = _git(house, "ls-files", "--others", "--exclude-standard", "-z", "--", *PARTS).split("\0")[:-1]
        added = [_git(house, "diff", "--no-index", "--", "/dev/null", name, statuses=(0, 1)) for name in new]
        return "".join([_git(house, "diff", "HEAD", "--", *PARTS), *added])
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(house: Path, *arguments: str, statuses: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        ["git", "-C", str(house), *arguments], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
    )
    if done.returncode not in statuses:
        raise subprocess.CalledProcessError(done.returncode, "git")
    return done.stdout
