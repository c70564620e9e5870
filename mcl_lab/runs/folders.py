"""Run folders and sweep folders: where they are, and what is a run's own in them."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from omegaconf import DictConfig

from mcl_lab.config.differences import differences
from mcl_lab.config.identity import identity_of
from mcl_lab.config.stored import FILE_NAME, read_config
from mcl_lab.errors import InputError
from mcl_lab.host.files import write_atomically

SWEEPS = "sweeps"  # the folder of sweep folders, beside the run folders

OWN = frozenset(
    {FILE_NAME, "record.json", "metrics.jsonl", "status.json", "result.json", "checkpoints", "run.log", "run.lock"}
    | {"system.jsonl", "delivery.json", "sender.log", "sender.lock", "mlflow.lock", "export", "features"}
)
_CHANGES = re.compile(r"changes(-[0-9a-f]{8})?\.diff")


def run_folders(root: Path) -> list[Path]:
    """The run folders at `root`: it alone when it is one, else those directly in it. One that holds foreign files is none."""
    folders = [root] if (root / FILE_NAME).exists() else sorted(path.parent for path in root.glob(f"*/{FILE_NAME}"))
    return [folder for folder in folders if not foreign(folder)]


def foreign(folder: Path) -> list[str]:
    """Names in a folder that no run put there."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(
        name for name in names if name not in OWN and not _CHANGES.fullmatch(name) and not name.startswith(".")
    )


def is_untrained(folder: Path) -> bool:
    """Whether the run left nothing that took time to make."""
    epochs = folder / "metrics.jsonl"
    patterns = ("checkpoints/*.pt", "result.json", "export/*", "features/*")
    made = [path for pattern in patterns for path in folder.glob(pattern)]
    return not made and not (epochs.exists() and epochs.stat().st_size)


def sweep_folder(sweep: str, runs: Path) -> Path:
    """The folder of a sweep: `sweep` itself when it is a path, else the one of that name in the folder of run folders."""
    return Path(sweep) if "/" in sweep else runs / SWEEPS / sweep


def refuse_other_run(config: DictConfig, folder: Path) -> None:
    """Raise InputError when the folder belongs to another config, saying what differs."""
    try:
        folder.lstat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(
            "hydra.run.dir", f"{folder} cannot be a run folder: {getattr(error, 'strerror', error)}"
        ) from error
    if not os.path.isdir(folder):
        raise InputError("hydra.run.dir", f"{folder} is there and is no folder; name another")
    if not (folder / FILE_NAME).exists():
        if others := foreign(folder):
            raise InputError(
                "hydra.run.dir", f"{folder} holds other files ({others[0]}, ...); name a new or empty folder"
            )
        return
    stored, ours = identity_of(read_config(folder, "hydra.run.dir")), identity_of(config)
    if stored.run_key != ours.run_key:
        changed = "; ".join(differences(stored.deciding, ours.deciding))
        raise InputError("hydra.run.dir", f"{folder} belongs to a run of another config: {changed}")


def output_folder(run: Path, name: str, named: str | None, files: Collection[str]) -> Path:
    """Where a task puts the files that it makes of a run: the folder `named`, else the subfolder `name` of the run's.

    In the run folder the files take the place of earlier ones, elsewhere of nothing. Nothing is made yet.
    Raises InputError("task.folder") when they cannot be put there.
    """
    folder = run / name if named is None else Path(named)
    if os.path.lexists(folder) and (not os.path.isdir(folder) or named is None and folder.is_symlink()):
        raise InputError("task.folder", f"{folder} is there and is no folder; name another")
    there = [file for file in files if os.path.lexists(folder / file)]
    if there and named is not None:
        raise InputError("task.folder", f"{folder} has a file {there[0]} already; delete it, or name another folder")
    return folder


def write_outputs(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder, which is made when missing, each of them whole or not at all.

    Raises InputError("task.folder") when the folder cannot be made, and OSError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("task.folder", f"cannot make the folder {folder}: {error.strerror}") from error
    for name, content in contents.items():
        write_atomically(folder / name, content, shared=True)


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("hydra.run.dir", f"cannot make the run folder {folder}: {error.strerror}") from error


def write_config(folder: Path, text: str) -> None:
    """Make a run's folder ready for `resume=FOLDER`."""
    make_folder(folder)
    write_atomically(folder / FILE_NAME, text)
