"""Sweeps: launching one, and task=sweep, which shows how one stands."""

import copy
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import hydra
from omegaconf import DictConfig, OmegaConf

from mcl_lab.config.compose import CONF, run_folder
from mcl_lab.config.key import differences, pair_name, run_key
from mcl_lab.config.plain import plain
from mcl_lab.config.stored import FILE_NAME as CONFIG
from mcl_lab.config.stored import to_yaml
from mcl_lab.config.sweeps import as_typed
from mcl_lab.errors import InputError, Interrupted, RunFailed
from mcl_lab.launch.ledger import FILE_NAME as LEDGER
from mcl_lab.launch.ledger import Ledger, Run, Seen
from mcl_lab.tasks.closing import command_line, recording
from mcl_lab.tasks.folders import make_folder, refuse_other_run, sweep_folder
from mcl_lab.tasks.screen import screen
from mcl_lab.tasks.sweep_screen import SweepScreen, as_json, show_sweep
from mcl_lab.tracking.delivery import is_delivered, read_delivery
from mcl_lab.tracking.files import exclusive, read_json, write_atomically, write_json
from mcl_lab.tracking.journal import RECORD, Journal, is_finished, read_last_epoch, read_record, read_status
from mcl_lab.tracking.lock import is_held
from mcl_lab.tracking.processes import is_alive, process_start, this_host
from mcl_lab.tracking.recorded import KIND_TAG
from mcl_lab.tracking.sender import start_sender
from mcl_lab.tracking.uri import credentials

LOCK = "ledger.lock"  # held by whoever launches the sweep
RUN = CONF.parent / "run.py"


def sweep(config: DictConfig, *, sweep: str, runs: str = "runs", format: Literal["table", "json"] = "table") -> None:
    """Print how each run of a sweep stands: waiting, running, finished, failed (why, and where its log is) or lost.

    sweep: its name, or its folder. runs: the folder of its run folders. Raises InputError("task.sweep") when there is no such
    ledger.
    """
    folder = sweep_folder(sweep, Path(runs))
    if not (folder / LEDGER).is_file():
        known = ", ".join(sorted(path.parent.name for path in folder.parent.glob(f"*/{LEDGER}"))) or "none"
        raise InputError("task.sweep", f"there is no {folder / LEDGER}; the sweeps in {runs}: {known}")
    ledger = _ledger(folder)
    standings = [(run, ledger.standing(run)) for run in ledger.runs]
    if format == "json":
        print(json.dumps(as_json(standings), indent=2))
    else:
        show_sweep(screen(), sweep, standings)


def launch(configs: Sequence[DictConfig], *, name: str | None, argv: Sequence[str], options: Sequence[str]) -> None:
    """Launch the runs of a sweep and follow them to their end; those that are finished are left alone.

    configs: checked, one for each run. name: the sweep's, None to make one from what it holds. argv: the command line.
    options: flags of run.py that each run needs as well.
    Raises InputError before anything is written, RunFailed when some runs failed, Interrupted when asked to stop.
    """
    for key in ("sweep", "tracking.uri", "tracking.experiment"):
        if len({OmegaConf.select(config, key) for config in configs}) > 1:
            raise InputError(key, "must be the same for all runs of a sweep")
    by_folder = _by_folder(configs)
    tracking = configs[0].tracking
    launcher = _launcher(configs)
    name = configs[0].sweep or name or f"multirun-{_hash(configs)[:8]}"
    folder = sweep_folder(name, Path(os.path.commonpath([folder.parent for folder in by_folder])))

    make_folder(folder)
    with exclusive(folder / LOCK, wait=False) as alone:
        if not alone:
            raise RunFailed(f"another process is launching sweep {name}; see: task=sweep task.sweep={folder}")
        ledger = _ledger(folder)
        runs = ledger.enter(_run(config, folder_of_run, folder) for folder_of_run, config in by_folder.items())

        def prepare(run: Run) -> list[str]:
            """The config goes into the run's folder now, so that what waits is not changed by an edit of a YAML file."""
            config = copy.deepcopy(by_folder[Path(run.folder)])
            config.sweep = str(folder.absolute())
            make_folder(Path(run.folder))
            write_atomically(Path(run.folder) / CONFIG, to_yaml(config))
            return [sys.executable, str(RUN), *options, f"resume={as_typed(run.folder)}"]

        journal, console = Journal(folder), screen()
        console.print(f"Sweep {name}: {len(runs)} runs; ledger {folder / LEDGER}", soft_wrap=True)
        environment = os.environ | (credentials(tracking.uri) if tracking.uri else {})
        _begin(journal, name, configs, argv)
        adoption = _adopt(runs, folder, environment)
        try:
            with SweepScreen(console, name, ledger, runs) as show:
                launcher.launch(
                    ledger,
                    runs,
                    prepare=prepare,
                    environment=environment,
                    identify=lambda pid: (process_start(pid), this_host()),
                    show=show,
                )
        except BaseException as error:
            journal.status("interrupted" if isinstance(error, Interrupted) else "failed", str(error))
            if isinstance(error, Interrupted):
                show_sweep(console, name, [(run, ledger.standing(run)) for run in runs])
            raise
        standings = [(run, ledger.standing(run)) for run in runs]
        unfinished = sum(standing.state != "finished" for _, standing in standings)
        message = f"{unfinished} of {len(runs)} runs of sweep {name} are not finished" if unfinished else ""
        journal.status("failed" if unfinished else "finished", message)
        if adoption:
            with suppress(subprocess.TimeoutExpired):
                adoption.wait(tracking.wait)
        show_sweep(console, name, standings)
        report = ("report", command_line("task=report", f"task.sweep={as_typed(name)}"))
        for what, text in [report, *recording(configs[0], folder)]:
            console.print(f"{what:<12}  {text}", soft_wrap=True)
    if unfinished:
        raise RunFailed(f"{message}; the same command tries them again")


def observe(run: Run) -> Seen:
    """What a run's folder and its latest process say now."""
    folder, latest = Path(run.folder), run.latest
    started = latest is not None and latest.ended_ms is None and latest.host == this_host()
    alive = started and is_alive(latest.pid, latest.process_start)
    try:
        status = read_status(folder) or {"state": None, "message": "", "started_ms": 0}
        finished = is_finished(folder)
        alive = not finished and (alive or is_held(folder))
        last = read_last_epoch(folder) or {"epoch": 0, "metrics": {}}
    except OSError as error:  # one folder that cannot be read must not hide the other runs
        return Seen(alive, "failed", f"its folder cannot be read: {error}", 0, 0, [])
    state = None if status["state"] == "finished" and not finished else status["state"]  # without its result it is not
    own_heads = [
        value for key, value in last["metrics"].items() if key.startswith("test/") and key.endswith("/own_head")
    ]
    return Seen(alive, state, status["message"], status["started_ms"], last["epoch"], own_heads)


def _ledger(folder: Path) -> Ledger:
    return Ledger(folder, read=read_json, write=write_json, observe=observe)


def _run(config: DictConfig, folder: Path, sweep: Path) -> Run:
    return Run(
        folder=str(folder),
        run_key=run_key(config),
        pair=pair_name(config),
        loss=str(config.loss.name),
        dataset=str(config.data.name),
        seed=config.seed,
        epochs=config.trainer.epochs,
        uses_gpu=config.trainer.device != "cpu",
        log=str(sweep / "logs" / f"{folder.name}.log"),
    )


def _by_folder(configs: Sequence[DictConfig]) -> dict[Path, DictConfig]:
    """The configs by their run folders. Raises InputError when runs share one, or one belongs to another run."""
    by_folder: dict[Path, DictConfig] = {}
    for config in configs:
        folder = run_folder(config)
        if folder in by_folder and run_key(by_folder[folder]) != run_key(config):
            raise InputError(
                "hydra.run.dir", f"{folder} would be the folder of several runs; put ${{run_name:}} into it"
            )
        if folder in by_folder and plain(by_folder[folder]) != plain(config):
            changed = "; ".join(differences(plain(by_folder[folder]), plain(config)))
            raise InputError("--multirun", f"runs that differ only in what decides no numbers are one run: {changed}")
        refuse_other_run(config, folder)
        by_folder[folder] = config
    return by_folder


def _launcher(configs: Sequence[DictConfig]):
    """The launcher that `hydra/launcher` names."""
    target = OmegaConf.select(configs[0], "hydra.launcher._target_") or "an empty node"
    if not target.startswith("mcl_lab.launch."):
        raise InputError("hydra/launcher", f"must be local: {target} keeps no ledger of its runs")
    if any(config.trainer.device.startswith("cuda:") for config in configs):
        raise InputError(
            "trainer.device", "in a sweep the launcher shares out GPUs: write cuda, and hydra.launcher.gpus=[1]"
        )
    return hydra.utils.instantiate(configs[0].hydra.launcher)


def _begin(journal: Journal, name: str, configs: Sequence[DictConfig], argv: Sequence[str]) -> None:
    """Open the sweep's own record, the parent of its runs' in MLflow, and wait a little until it is there."""
    tracking = configs[0].tracking
    words = [word for word in argv if "tracking." not in word]  # in which passwords may be
    command = shlex.join(["python", "run.py", *words])
    tags = {KIND_TAG: "sweep", "mlflow.note.content": f"{len(configs)} runs: `{command}`"}
    journal.begin(
        {
            "run_key": _hash(configs),
            "name": name,
            "uri": tracking.uri,
            "experiment": tracking.experiment,
            "params": {},
            "tags": tags,
        }
    )
    journal.status("running")
    if start_sender(journal.folder, tracking.uri) is None:
        return
    deadline = time.monotonic() + tracking.wait
    while time.monotonic() < deadline:
        delivery = read_delivery(journal.folder, read_record(journal.folder))
        if delivery["mlflow_run"] or delivery["error"]:
            return
        time.sleep(0.1)


def _adopt(runs: Sequence[Run], sweep: Path, environment: Mapping[str, str]) -> subprocess.Popen | None:
    """Runs that were finished before, and belong to no sweep yet, become children of this one in MLflow too; the process that
    tells it so."""
    parent, adopted = str(sweep.absolute()), []
    for run in runs:
        record = read_record(run.folder)
        if record is None or not is_finished(run.folder):
            continue
        if record["parent"] is None:
            record |= {"parent": parent}
            write_json(Path(run.folder) / RECORD, record)
        if record["parent"] == parent and not is_delivered(run.folder):
            adopted.append(run.folder)
    if not adopted:
        return None
    return subprocess.Popen(
        [sys.executable, str(RUN), "task=sync", f"task.runs={as_typed(adopted)}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def _hash(configs: Sequence[DictConfig]) -> str:
    return hashlib.sha256("".join(sorted(map(run_key, configs))).encode()).hexdigest()
