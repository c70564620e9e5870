"""What SLURM says of jobs: squeue for those of now and of lately, sacct for those before."""

import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from mcl_lab.launch.client_variables import own_environment

TIMEOUT = 60.0  # seconds that SLURM may take for an answer
PENDING = frozenset(
    {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "POWER_UP_NODE"}
)
ACTIVE = frozenset(
    {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING", "UPDATE_DB"}
)
UNRECORDED = "UNRECORDED"  # our word for a job of which accounting has no record: it left the queue before it began


class QueueSilent(Exception):
    """SLURM is not here, or does not answer; the message says which."""


class Job(NamedTuple):
    """number: what SLURM counts it by, of its own for each job of an array. state: SLURM's word for it, in capitals.
    reason: why it waits. nodes: where it is, or was."""

    number: str
    state: str
    reason: str
    nodes: str

    @property
    def pending(self) -> bool:
        return self.state in PENDING

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def cancelled(self) -> bool:
        return self.unrecorded or self.state == "CANCELLED"

    @property
    def unrecorded(self) -> bool:
        return self.state == UNRECORDED


def ask(names: Sequence[str]) -> dict[str, Job]:
    """What became of the jobs of those names (`12`, or `12_3` of an array); one that nobody knows is left out.

    Raises QueueSilent.
    """
    arrays = sorted({name.partition("_")[0] for name in names})
    if not arrays:
        return {}
    found = _squeue(arrays)
    missing = [name for name in names if name not in found]
    if missing and (recorded := _sacct(sorted({name.partition("_")[0] for name in missing}))) is not None:
        unrecorded = Job("", UNRECORDED, "", "")
        found = {name: recorded.get(name, unrecorded) for name in missing} | found
    return {name: found[name] for name in names if name in found}


def _squeue(arrays: Sequence[str]) -> dict[str, Job]:
    asked = ["--noheader", "--array", "--states=all", f"--jobs={','.join(arrays)}", "--format=%i|%A|%T|%r|%N"]
    done = run_command(["squeue", *asked])
    if done is None or done.returncode and "Invalid job id" not in done.stderr:  # which it says of one that is gone
        raise QueueSilent("SLURM does not answer")
    return _jobs(done.stdout, arrays)


def _sacct(arrays: Sequence[str]) -> dict[str, Job] | None:
    """None where there is no accounting."""
    fields = "--format=JobID,JobIDRaw,State,Reason,NodeList"
    done = run_command(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(arrays)}", fields])
    return None if done is None or done.returncode else _jobs(done.stdout, arrays)


def _jobs(told: str, arrays: Sequence[str]) -> dict[str, Job]:
    jobs: dict[str, Job] = {}
    for line in told.splitlines():
        name, number, state, reason, nodes = (line.strip().split("|") + [""] * 5)[:5]
        if name.partition("_")[0] in arrays:
            # `CANCELLED by 1000` is for us the same whoever it was; None and None assigned are no nodes
            job = Job(number, state.partition(" ")[0], reason, "" if nodes.startswith("None") else nodes)
            jobs |= dict.fromkeys(_elements(name), job)
    return jobs


def _elements(name: str) -> list[str]:
    """`12_[1-2,4%3]`, as elements of an array are listed that never began, one by one."""
    array, bracket, listed = name.partition("_[")
    if not bracket:
        return [name]
    ranges = [part.partition("-") for part in listed.rstrip("]").partition("%")[0].split(",")]
    return [f"{array}_{index}" for low, _, high in ranges for index in range(int(low), int(high or low) + 1)]


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess | None:
    """A command of SLURM, with what it printed; None when it does not end in time. Raises QueueSilent when it is not here."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            stdin=subprocess.DEVNULL,
            env=own_environment() | {"SLURM_BITSTR_LEN": "0"},  # lists of elements in full
        )
    except FileNotFoundError:
        raise QueueSilent("SLURM is not installed here: look from a machine of the cluster") from None
    except (OSError, subprocess.TimeoutExpired):
        return None
