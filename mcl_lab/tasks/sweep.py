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
from pathlib import Path
from typing import Literal

import hydra
from omegaconf import DictConfig

from mcl_lab.config.compose import CONF, run_folder
from mcl_lab.config.key import pair_name, run_key
from mcl_lab.config.stored import FILE_NAME as CONFIG
from mcl_lab.config.stored import to_yaml
from mcl_lab.errors import InputError, Interrupted, RunFailed
from mcl_lab.launch.ledger import FILE_NAME as LEDGER
from mcl_lab.launch.ledger import Ledger, Run, Seen
from mcl_lab.tasks.closing import recording
from mcl_lab.tasks.folders import SWEEPS, make_folder, refuse_other_run, sweep_folder
from mcl_lab.tasks.screen import screen
from mcl_lab.tasks.sweep_screen import SweepScreen, as_json, sweep_table
from mcl_lab.tracking.delivery import read_delivery
from mcl_lab.tracking.files import exclusive, read_json, write_atomically, write_json
from mcl_lab.tracking.journal import RECORD, Journal, is_finished, read_last_epoch, read_record, read_status
from mcl_lab.tracking.lock import is_held
from mcl_lab.tracking.processes import is_alive, process_start, this_host
from mcl_lab.tracking.sender import start_sender
from mcl_lab.tracking.uri import credentials

LOCK = "ledger.lock"  # held by whoever launches the sweep

RUN = CONF.parent / "run.py"


def sweep(config: DictConfig, *, sweep: str, runs: str = "runs", format: Literal["table", "json"] = "table") -> None:
    """Print how each run of a sweep stands: waiting, running, finished, failed (why, and where its log is) or lost.

    sweep: its name. runs: the folder of its run folders. Raises InputError("task.sweep") when there is no such ledger.
    """
    folder = Path(runs) / SWEEPS / sweep
    if not (folder / LEDGER).is_file():
        known = ", ".join(sorted(path.parent.name for path in folder.parent.glob(f"*/{LEDGER}"))) or "none"
        raise InputError("task.sweep", f"there is no {folder / LEDGER}; the sweeps in {runs}: {known}")
    ledger = _ledger(folder)
    standings = [(run, ledger.standing(run)) for run in ledger.runs]
    if format == "json":
        print(json.dumps(as_json(standings), indent=2))
    else:
        screen().print(sweep_table(f"Sweep {sweep}", standings))


def launch(configs: Sequence[DictConfig], *, name: str | None, typed: Sequence[str], options: Sequence[str]) -> None:
    """Launch the runs of a sweep and follow them to their end; those that are finished are left alone.

    configs: checked, one for each run. name: the sweep's, None to make one from what it holds. typed: the overrides that were.
    options: flags of run.py that each run needs as well.
    Raises InputError before anything is written, RunFailed when some runs failed, Interrupted when asked to stop.
    """
    folders = _folders(configs)
    name = configs[0].sweep or name or f"multirun-{_hash(configs)[:8]}"
    folder = sweep_folder(name, run_folder(configs[0]))
    launcher = _launcher(configs[0])
    if len({(config.tracking.uri, config.tracking.experiment) for config in configs}) > 1:
        raise InputError("tracking", "must be the same for all runs of a sweep")
    tracking = configs[0].tracking

    make_folder(folder)
    with exclusive(folder / LOCK, wait=False) as alone:
        if not alone:
            raise RunFailed(f"sweep {name} is being launched by another process; see: task=sweep task.sweep={name}")
        ledger = _ledger(folder)
        runs = ledger.enter(_run(config, run_folder(config), folder) for config in configs)

        def prepare(run: Run) -> list[str]:
            """The config goes into the run's folder now, so that what waits is not changed by an edit of a YAML file."""
            config = copy.deepcopy(folders[Path(run.folder)])
            config.sweep = str(folder)
            make_folder(Path(run.folder))
            write_atomically(Path(run.folder) / CONFIG, to_yaml(config))
            return [sys.executable, str(RUN), *options, f"resume={run.folder}"]

        journal, console = Journal(folder), screen()
        _begin(journal, name, configs, typed)
        adoption = _adopt(runs, folder)
        try:
            with SweepScreen(console, name, ledger, runs) as show:
                launcher.launch(
                    ledger,
                    runs,
                    prepare=prepare,
                    environment=os.environ | (credentials(tracking.uri) if tracking.uri else {}),
                    identify=lambda pid: (process_start(pid), this_host()),
                    show=show,
                )
        except Interrupted as error:
            journal.status("interrupted", str(error))
            raise
        finally:
            standings = [(run, ledger.standing(run)) for run in runs]
            console.print(sweep_table(f"Sweep {name}", standings))
        unfinished = sum(standing.state != "finished" for _, standing in standings)
        message = f"{unfinished} of {len(runs)} runs of sweep {name} are not finished" if unfinished else ""
        journal.status("failed" if unfinished else "finished", message)
        if adoption:
            adoption.wait()
        for what, text in recording(configs[0], folder):
            console.print(f"{what:<12}  {text}", soft_wrap=True)
    if unfinished:
        raise RunFailed(f"{message}; the same command tries them again")


def observe(run: Run) -> Seen:
    """What a run's folder and its latest process say now."""
    folder, latest = Path(run.folder), run.latest
    if is_finished(folder):
        state, message, alive = "finished", "", False
    else:
        status = read_status(folder) or {"state": None, "message": ""}
        state = None if status["state"] == "finished" else status["state"]  # without its result it is not
        message = status["message"]
        started = latest is not None and latest.ended_ms is None and latest.host == this_host()
        alive = started and is_alive(latest.pid, latest.process_start) or is_held(folder)
    last = read_last_epoch(folder) or {"epoch": 0, "metrics": {}}
    own_heads = [
        value for key, value in last["metrics"].items() if key.startswith("test/") and key.endswith("/own_head")
    ]
    return Seen(alive, state, message, last["epoch"], own_heads)


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


def _folders(configs: Sequence[DictConfig]) -> Mapping[Path, DictConfig]:
    """The configs by their run folders. Raises InputError when runs share one, or one belongs to another run."""
    folders: dict[Path, DictConfig] = {}
    for config in configs:
        folder = run_folder(config)
        if folder in folders and run_key(folders[folder]) != run_key(config):
            raise InputError("hydra.run.dir", f"{folder} would be the folder of several runs; put ${{run_name:}} into it")
        refuse_other_run(config, folder)
        folders[folder] = config
    return folders


def _launcher(config: DictConfig):
    """The launcher that `hydra/launcher` names."""
    target = config.hydra.launcher.get("_target_", "")
    if not target.startswith("mcl_lab.launch."):
        raise InputError("hydra/launcher", f"must be local: {target} keeps no ledger of its runs")
    if config.trainer.device.startswith("cuda:"):
        raise InputError("trainer.device", "in a sweep the launcher shares out GPUs: write cuda, and hydra.launcher.gpus=[1]")
    return hydra.utils.instantiate(config.hydra.launcher)


def _begin(journal: Journal, name: str, configs: Sequence[DictConfig], typed: Sequence[str]) -> None:
    """Open the sweep's own record, the parent of its runs' in MLflow, and wait a little until it is there."""
    tracking = configs[0].tracking
    command = shlex.join(["python", "run.py", *(word for word in typed if "tracking." not in word)])  # where passwords are
    tags = {"mcl_lab.kind": "sweep", "mlflow.note.content": f"{len(configs)} runs: `{command}`"}
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


def _adopt(runs: Sequence[Run], sweep: Path) -> subprocess.Popen | None:
    """Runs that were finished before, alone, become children of the sweep too; the process that tells MLflow so."""
    alone = []
    for folder in map(Path, (run.folder for run in runs)):
        record = read_record(folder)
        if record is not None and record["parent"] is None and is_finished(folder):
            write_json(folder / RECORD, record | {"parent": str(sweep.absolute())})
            alone.append(folder)
    if not alone:
        return None
    command = [sys.executable, str(RUN), "task=sync", f"task.runs={alone[0].parent}"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _hash(configs: Sequence[DictConfig]) -> str:
    return hashlib.sha256("".join(sorted(map(run_key, configs))).encode()).hexdigest()
