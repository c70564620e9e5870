"""task=sweep: how the runs of a sweep stand, and what can be done about those in SLURM."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import DictConfig

from mcl_lab.config.check import check
from mcl_lab.config.stored import parse_config
from mcl_lab.config.targets import SLURM, TRAIN
from mcl_lab.errors import InputError
from mcl_lab.host.files import read_json
from mcl_lab.host.screen import screen
from mcl_lab.host.uri import stored_uri
from mcl_lab.launch.ledger import Ledger
from mcl_lab.launch.slurm import cancel, require_slurm
from mcl_lab.runs.folders import sweep_folder
from mcl_lab.runs.layout import SweepFolder
from mcl_lab.sweeping.launch import launch
from mcl_lab.sweeping.record import is_launching, settle, states_in
from mcl_lab.terminal.output import put_out
from mcl_lab.terminal.sweep import as_json, follow, show_sweep


def sweep(
    config: DictConfig,
    *,
    sweep: Annotated[str, "not empty"],
    runs: Annotated[str, "not empty"] = "runs",
    action: Literal["show", "status", "cancel", "resubmit"] = "show",
    format: Literal["table", "json"] = "table",
) -> None:
    """Print how each run of a sweep stands: waiting, queued, running, finished, cancelled, failed (why, and where its log
    is), lost, or unknown when SLURM does not answer.

    sweep: its name, or its folder. runs: the folder of its run folders. action: status follows a sweep live; cancel takes
    its jobs out of SLURM's queue and ends those that run; resubmit submits what is neither finished nor in the queue, with
    the configs and the settings of SLURM that it had, and the code of now.
    Raises InputError("task.sweep") when there is no such ledger, or it is not SLURM's.
    """
    folder = sweep_folder(sweep, Path(runs))
    file = SweepFolder(folder).ledger
    if not os.path.isfile(file):
        known = ", ".join(sorted(path.parent.name for path in folder.parent.glob(f"*/{file.name}"))) or "none"
        raise InputError("task.sweep", f"there is no {file}; the sweeps in {runs}: {known}")
    ledger = Ledger(folder)
    _refuse_elsewhere(ledger)
    if action in ("cancel", "resubmit") and ledger.launcher is None:
        raise InputError("task.action", f"{action} is for sweeps in SLURM; {folder.name} was launched on this machine")
    match action:
        case "status":
            follow(screen(), ledger, ledger.runs, lambda: is_launching(folder), unseen=False)
        case "cancel":
            ended = _cancel(ledger)
        case "resubmit":
            _resubmit(ledger, config.tracking.uri)
            return
    standings = ledger.standings(ledger.runs)
    settle(folder, states_in(standings))
    put_out(format, as_json(standings), lambda console: show_sweep(console, folder.name, standings))
    if format == "table" and action == "cancel":
        asked = f"SLURM was asked to end {ended} of its jobs, which takes a moment"
        print(asked if ended else "no job of it is in SLURM's queue")


def _refuse_elsewhere(ledger: Ledger) -> None:
    """Raise InputError in another folder than that of the launch: folders of runs are relative to it."""
    launched_in = Path((ledger.launcher or {}).get("cwd", "."))
    if launched_in.is_dir() and not launched_in.samefile(Path.cwd()):  # else all of it was moved
        raise InputError("task.sweep", f"{ledger.folder.name} was launched in {launched_in}: go there")


def _cancel(ledger: Ledger) -> int:
    """How many jobs SLURM was asked to end."""
    require_slurm()
    if jobs := ledger.jobs_in_queue():
        cancel(jobs)
        ledger.ask_again()
    return len(jobs)


def _resubmit(ledger: Ledger, uri: str | None) -> None:
    """uri: where user and password may be, which are stored nowhere. What is stored is checked as what is typed."""
    launcher = ledger.launcher
    assert launcher is not None, "only what was submitted is submitted again"
    configs, path, settings = [], SweepFolder(ledger.folder).configs, launcher["settings"]
    for folder, text in (read_json(path) or {}).items():
        if "${" in folder or "${" in json.dumps(settings):
            raise InputError("task.sweep", f"{ledger.folder} holds an interpolation, which no stored sweep does")
        config = parse_config(text, path, "task.sweep")
        config.hydra.run = {"dir": folder}
        config.hydra.launcher = settings
        check(config)
        if config.task._target_ != TRAIN or settings["_target_"] != SLURM:
            raise InputError("task.sweep", f"{ledger.folder} is not of runs that were submitted to SLURM")
        config.sweep = str(ledger.folder)
        if uri is not None and stored_uri(uri) == config.tracking.uri:
            config.tracking.uri = uri
        configs.append(config)
    if not configs:
        raise InputError("task.sweep", f"there is no {path}; the command that launched the sweep submits again")
    config_dir = launcher["config_dir"]
    argv = ["task=sweep", f"task.sweep={ledger.folder}", "task.action=resubmit"]
    launch(configs, name=None, argv=argv, config_dir=Path(config_dir) if config_dir else None)
