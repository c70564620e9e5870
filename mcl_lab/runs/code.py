"""The code that runs go by: which commit it is, and a copy of it for jobs that start later."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sysconfig
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

PARTS = ("run.py", "conf", "mcl_lab", "sweeps")  # what a run needs of the house
RECORD, CHANGES = "snapshot.json", "changes.diff"
CHANGED = "+changes"  # after a commit that the code differs from
CONFIG_DIR = "config_dir"  # in a snapshot: the folder that --config-dir named


def commit_of(house: Path) -> str:
    """The commit of the code in `house`, with `+changes` when what a run needs of it differs, new files included; `unknown`
    outside a git checkout.

    A snapshot is of the commit that it was taken from.
    """
    record = house / RECORD
    if record.exists():
        return json.loads(record.read_text(encoding="utf-8"))["commit"]
    try:
        commit = _git(house, "rev-parse", "HEAD").strip()
        return commit + (CHANGED if _git(house, "status", "--porcelain", "--", *PARTS) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def changes_of(house: Path) -> str:
    """How the code in `house` differs from its commit, new files in full, for `git apply`; of a snapshot as it was taken."""
    if (house / RECORD).exists():
        return (house / CHANGES).read_text(encoding="utf-8", errors="replace")
    # Whatever a person has set for diffs to look like.
    diff = ("-c", "core.quotePath=true", "diff", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/")
    try:
        new = _git(house, "ls-files", "--others", "--exclude-standard", "-z", "--", *PARTS).split("\0")[:-1]
        added = [_git(house, *diff, "--no-index", "--", "/dev/null", name, statuses=(0, 1)) for name in new]
        return "".join([_git(house, *diff, "HEAD", "--", *PARTS), *added])
    except (OSError, subprocess.CalledProcessError):
        return ""


def package_state(name: str) -> str:
    """Which code the package or module of that name is: its version when it is installed like a library, else a checksum
    (SHA-256, first 16 digits) of its files; `missing` when there is none."""
    top = name.partition(".")[0]
    if place := _own_package(top):
        contents = {file: path.read_bytes() for file, path in _files(top, place, place / "no snapshots").items()}
        return f"sha256 {_digest(contents, 16)}"
    for distribution in importlib.metadata.packages_distributions().get(top, []):
        return importlib.metadata.version(distribution)
    return "missing"


def take_snapshot(
    house: Path,
    into: Path,
    *,
    clean: Callable[[str], str],
    plugins: Iterable[str] = (),
    config_dir: Path | None = None,
) -> Path:
    """Copy the code in `house`, packages of plugins by their names and a folder of configs into a folder in `into` that is
    named by what it holds, and return it; one that is there already, unchanged, is used again.

    Beside the code lie snapshot.json, which names its commit, and changes.diff, how it differs from that. A plugin that is
    installed like a library is left where it is. Of the folder of configs only YAML files are taken. clean: takes secrets out
    of a text, for YAML files and changes.diff. Raises OSError.
    """
    sources = {part: house / part for part in PARTS if (house / part).exists()}
    tops = {name.partition(".")[0] for name in plugins}
    sources |= {name: place for name in sorted(tops) if (place := _own_package(name))}
    files = {name: path for part, place in sources.items() for name, path in _files(part, place, into).items()}
    if config_dir:
        found = _files(CONFIG_DIR, config_dir, into)
        files |= {name: path for name, path in found.items() if name.endswith(".yaml")}
    contents = {name: path.read_bytes() for name, path in files.items()}
    contents[RECORD] = (json.dumps({"commit": commit_of(house)}) + "\n").encode()
    contents[CHANGES] = changes_of(house).encode(errors="replace")
    for name in [name for name in contents if name.endswith(".yaml") or name == CHANGES]:
        contents[name] = clean(contents[name].decode(errors="surrogateescape")).encode(errors="surrogateescape")
    folder = into / _digest(contents)
    if folder.exists() and _contents(folder) == contents:
        return folder
    if folder.exists():  # somebody has changed it, and jobs may rely on that
        folder = into / f"{folder.name}-{uuid.uuid4().hex[:8]}"
    unfinished = into / f".{folder.name}"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    for name, content in contents.items():
        target = unfinished / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        if name in files:
            shutil.copymode(files[name], target)  # what is not for everybody stays so
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


def _own_package(name: str) -> Path | None:
    """Where a package or module lies, unless it is installed; it is not imported."""
    spec = importlib.util.find_spec(name)
    places = [*(spec.submodule_search_locations or ()), spec.origin] if spec else []
    if not places or places[0] is None:
        return None
    place = Path(places[0])
    installed = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")]
    return None if any(place.is_relative_to(folder) for folder in installed) else place


def _digest(contents: Mapping[str, bytes], digits: int = 12) -> str:
    names = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:digits]


def _contents(folder: Path) -> dict[str, bytes]:
    """Of the files in a snapshot, but for what Python has put there since."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _git(house: Path, *arguments: str, statuses: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        ["git", "-C", str(house), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
    )
    if done.returncode not in statuses:
        raise subprocess.CalledProcessError(done.returncode, "git")
    return done.stdout
