"""task=clean: what can go from run folders."""

import os
import shutil
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig

from mcl_lab.config.stored import read_config
from mcl_lab.errors import InputError
from mcl_lab.host.text import plain_text
from mcl_lab.runs.folders import is_untrained, run_folders
from mcl_lab.runs.journal import is_finished
from mcl_lab.runs.layout import RunFolder
from mcl_lab.runs.lock import is_held


def clean(config: DictConfig, *, runs: Annotated[str, "not empty"] = "runs", delete: bool = False) -> None:
    """List, and delete when `delete`, what no run needs any more: checkpoints of finished runs for going on, temporary
    files that a crash left behind, and folders of runs that were stopped before their first checkpoint. A folder in use,
    with files that are not a run's, or that leads elsewhere by a symbolic link, is left alone.

    runs: a run folder, or a folder of them. Raises InputError("task.runs").
    """
    root = Path(runs)
    if not os.path.isdir(root):
        raise InputError("task.runs", f"there is no folder {root}")
    total = 0
    for folder in run_folders(root):
        for path in [] if is_held(folder) or _leads_elsewhere(folder) else _needless(folder):
            size = _size(path)
            total += size
            print(f"{'deleted' if delete else 'can go'}  {size / 2**20:8.1f} MB  {plain_text(str(path))}")
            if delete:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if total == 0:
        print(f"Nothing to clean in {root}.")
    elif not delete:
        print(f"{total / 2**20:.1f} MB in all; delete them with task.delete=true")


def _needless(folder: Path) -> list[Path]:
    if is_untrained(folder):
        return [folder] if _is_a_run(folder) else []
    steps = RunFolder(folder).checkpoints.glob("step-*.pt") if is_finished(folder) else []
    return sorted([*steps, *folder.rglob(".*.tmp")])


def _is_a_run(folder: Path) -> bool:
    """Whether all in it is a run's: other programs have a config.yaml too, and hidden files beside it."""
    hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
    try:
        read_config(folder, "task.runs")
    except InputError:
        return False
    return all(path.match(".*.tmp") or path.match(".now.*") for path in hidden)


def _leads_elsewhere(folder: Path) -> bool:
    return folder.is_symlink() or any(path.is_symlink() for path in folder.iterdir())


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
