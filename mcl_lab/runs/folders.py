"""Run folders and sweep folders: where they are, and what is a run's own in them."""

import os
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from omegaconf import DictConfig

from mcl_lab.config.differences import differences
from mcl_lab.config.identity import identity_of
from mcl_lab.config.stored import read_config
from mcl_lab.errors import InputError
from mcl_lab.host.files import write_atomically
from mcl_lab.runs.layout import RunFolder

SWEEPS = "sweeps"  # the folder of sweep folders, beside the run folders


def run_folders(root: Path) -> list[Path]:
    """The run folders at `root`: it alone when it is one, else those directly in it. One that holds foreign files is none."""
    if RunFolder(root).config.exists():
        folders = [root]
    else:
        folders = sorted(path.parent for path in root.glob(f"*/{RunFolder.config.name}"))
    return [folder for folder in folders if not foreign(folder)]


def foreign(folder: Path) -> list[str]:
    """Names in a folder that no run put there."""
    own = RunFolder.names()
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    return sorted(name for name in names if not any(fnmatchcase(name, pattern) for pattern in own))


def is_untrained(folder: Path) -> bool:
    """Whether the run left nothing that took time to make."""
    run = RunFolder(folder)
    made = [run.checkpoints.glob("*.pt"), run.export.glob("*"), run.features.glob("*")]
    trained = run.epochs.exists() and run.epochs.stat().st_size > 0
    return not (trained or run.result.exists() or any(True for paths in made for _ in paths))


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
    if not RunFolder(folder).config.exists():
        if others := foreign(folder):
            raise InputError(
                "hydra.run.dir", f"{folder} holds other files ({others[0]}, ...); name a new or empty folder"
            )
        return
    stored, ours = identity_of(read_config(folder, "hydra.run.dir")), identity_of(config)
    if stored.run_key != ours.run_key:
        changed = "; ".join(differences(stored.deciding, ours.deciding))
        raise InputError("hydra.run.dir", f"{folder} belongs to a run of another config: {changed}")


def output_folder(own: Path, named: str | None, files: Collection[str]) -> Path:
    """Where a task puts the files that it makes of a run: the folder `named`, else its `own` one in the run's.

    In the run folder the files take the place of earlier ones, elsewhere of nothing. Nothing is made yet.
    Raises InputError("task.folder") when they cannot be put there.
    """
    folder = own if named is None else Path(named)
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
    write_atomically(RunFolder(folder).config, text)
