"""A sweep's own record, the parent of its runs' in MLflow."""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from mcl_lab.config.compose import CONF
from mcl_lab.config.sweeps import as_typed
from mcl_lab.errors import RunFailed
from mcl_lab.host.files import exclusive, read_json, write_json
from mcl_lab.host.processes import Life, ProcessId
from mcl_lab.host.secrets import without_secrets
from mcl_lab.launch.ledger_run import LedgerRun
from mcl_lab.launch.standing import GOING_ON, Standing, State
from mcl_lab.runs.journal import KIND_TAG, Journal, is_finished, read_record, read_status
from mcl_lab.runs.layout import RunFolder, SweepFolder
from mcl_lab.sweeping.table import write_table
from mcl_lab.tracking.delivery import is_delivered, read_delivery, wait_delivered
from mcl_lab.tracking.sender import start_sender

TRIES = 10
RUN = CONF.parent / "run.py"

End = Literal["finished", "failed"]


class SweepRecord:
    """The record of the sweep that is launched by this process, in the sweep's folder."""

    def __init__(self, folder: Path, tracking):
        self.folder = folder
        self.tracking = tracking
        self.journal = Journal(folder)

    def begin(self, name: str, run_key: str, runs: int, argv: Sequence[str]) -> None:
        words = [without_secrets(word) for word in argv if "tracking." not in word]
        command = shlex.join(["python", "run.py", *words])
        self.journal.begin(
            {
                "run_key": run_key,
                "name": name,
                "uri": self.tracking.uri,
                "experiment": self.tracking.experiment,
                "params": {},
                "tags": {KIND_TAG: "sweep", "mlflow.note.content": f"{runs} runs: `{command}`"},
            }
        )
        self.journal.status("running")
        self.sender = start_sender(self.folder, self.tracking.uri)

    def wait(self, seconds: float) -> None:
        """Until MLflow has it, and with it schema and experiment, or says why not; for so long at most."""
        deadline = time.monotonic() + seconds
        while self.sender is not None and time.monotonic() < deadline:
            record = read_record(self.folder)
            delivery = read_delivery(self.folder, record) if record else None
            if delivery is None or delivery["mlflow_run"] or delivery["error"]:
                return
            time.sleep(0.1)


@contextmanager
def launching(folder: Path) -> Iterator[None]:
    """Hold a sweep for launching it, in a folder that is there. Raises RunFailed when another process does."""
    for left in reversed(range(TRIES)):  # somebody who only looks holds it for a moment
        with exclusive(SweepFolder(folder).lock, wait=False) as alone:
            if alone:
                yield
                return
        if left:
            time.sleep(0.1)
    raise RunFailed(f"another process is launching sweep {folder.name}; see: task=sweep task.sweep={folder}")


def is_launching(folder: Path) -> bool:
    """Whether a process of this machine, or of this file system, is launching the sweep at the moment."""
    if not SweepFolder(folder).lock.exists():
        return False
    with exclusive(SweepFolder(folder).lock, wait=False) as alone:
        return not alone


def settle(folder: Path, states: Sequence[State]) -> None:
    """Bring the record of a submitted sweep up to date once none of its runs goes on any more: nobody waits for it to."""
    if any(state in GOING_ON for state in states):
        return
    with exclusive(SweepFolder(folder).lock, wait=False) as alone:
        status = read_status(folder)
        if not alone or status is None or _is_at_work(status):  # a launcher says how it stands
            return
        state, message = outcome(folder.name, states)
        if status["state"] == "interrupted" and state != "finished":  # that says more
            return
        if (status["state"], status["message"]) != (state, message):
            conclude(Journal(folder), state, message)
            start_sender(folder)


def conclude(journal: Journal, state: End, message: str) -> None:
    """The last word on a sweep, once its table is in its record."""
    with suppress(OSError):  # on a disk that is full, the word is worth more
        write_table(journal.folder)
    journal.status(state, message)


def settle_from_within(folder: Path, seconds: float) -> None:
    """As `settle`, for jobs when they end, many perhaps: the first run that has not ended answers, and SLURM is not asked.
    Waits at most `seconds` until it is recorded: a sender dies with its job."""
    states = []
    for run in (read_json(SweepFolder(folder).ledger) or {}).get("runs", []):
        status = read_status(run["folder"])
        if status is None or status["state"] not in ("finished", "failed"):
            return
        states.append(status["state"])
    settle(folder, states)
    wait_delivered(folder, seconds)


def _is_at_work(status: dict) -> bool:
    """Whether the launcher that wrote this may still be there: of one on another host nobody knows."""
    return status["state"] == "running" and ProcessId.read(status).life() is not Life.GONE


def states_in(standings: Sequence[tuple[LedgerRun, Standing]]) -> list[State]:
    return [standing.state for _, standing in standings]


def outcome(name: str, states: Sequence[State]) -> tuple[End, str]:
    """What is to be said of a sweep whose runs stand so: finished, or failed and how many."""
    unfinished = sum(state != "finished" for state in states)
    if unfinished == 0:
        return "finished", ""
    return "failed", f"{unfinished} of {len(states)} runs of sweep {name} are not finished"


def adopt(runs: Sequence[LedgerRun], sweep: Path, environment: Mapping[str, str]) -> subprocess.Popen | None:
    """Runs that were finished before, and belong to no sweep yet, become children of this one in MLflow too; the process that
    tells it so."""
    parent, adopted = str(sweep.absolute()), []
    for run in runs:
        record = read_record(run.folder)
        if record is None or not is_finished(run.folder):
            continue
        if record["parent"] is None:
            record |= {"parent": parent}
            write_json(RunFolder(run.folder).record, record)
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
