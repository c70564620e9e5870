"""How a run of a sweep stands: what its folder and its process say, its attempts, and what SLURM has done with its job."""

from pathlib import Path
from typing import Literal, NamedTuple

from mcl_lab.launch.ledger_run import Attempt, LedgerRun
from mcl_lab.launch.queue import Job, QueueSilent
from mcl_lab.runs.journal import is_finished, read_last_epoch, read_status
from mcl_lab.runs.lock import holder_of, is_held

State = Literal["waiting", "queued", "running", "finished", "cancelled", "failed", "lost", "unknown"]
GOING_ON = ("queued", "running", "unknown")  # the states that a run leaves by itself, or may
KILLED = -9  # the exit status of a process that the system took away, for want of memory perhaps


class Seen(NamedTuple):
    """What a run's folder and processes say at a moment.

    alive: a living process trains it, or is about to. state: the journal's last word (running, finished, failed,
    interrupted), None before the first. started_ms: when the process that had that word began. epochs: done so far.
    accuracies: latest test accuracies (%) of the own heads. holder: SLURM's number of the job that the living process is
    part of, None when it is of none.
    """

    alive: bool
    state: str | None
    message: str
    started_ms: int
    epochs: int
    accuracies: list[float]
    holder: str | None = None


class Standing(NamedTuple):
    """How a run stands, and in words what there is to say about it."""

    state: State
    detail: str
    seen: Seen


def observe(run: LedgerRun) -> Seen:
    """What a run's folder and its latest process say now."""
    folder, latest = Path(run.folder), run.latest
    alive = latest is not None and latest.goes_on
    try:
        status = read_status(folder) or {"state": None, "message": "", "started_ms": 0}
        finished = is_finished(folder)
        alive = not finished and (alive or is_held(folder))
        last = read_last_epoch(folder) or {"epoch": 0, "metrics": {}}
        lock = holder_of(folder) if alive else None
    except OSError as error:  # one folder that cannot be read must not hide the other runs
        return Seen(alive, "failed", f"its folder cannot be read: {error}", 0, 0, [])
    state = None if status["state"] == "finished" and not finished else status["state"]  # without its result it is not
    own_heads = [
        value for key, value in last["metrics"].items() if key.startswith("test/") and key.endswith("/own_head")
    ]
    holder = lock["slurm"][0] if lock and lock["slurm"] else None
    return Seen(alive, state, status["message"], status["started_ms"], last["epoch"], own_heads, holder)


def standing_here(latest: Attempt | None, seen: Seen) -> Standing:
    """Of a run whose latest attempt was a process, or that has none."""
    state, detail = _here(latest, seen)
    return Standing(state, detail, seen)


def standing_in_slurm(latest: Attempt, seen: Seen, job: Job | QueueSilent | None, jobs: Path) -> Standing:
    """Of a run whose latest attempt is a job, which SLURM knows best about. jobs: where submitit keeps their output."""
    state, detail = _in_slurm(latest, seen, job, jobs)
    return Standing(state, detail, seen)


def is_stop(exit_status: int | None) -> bool:
    """Whether a process was asked to end: by SIGHUP, SIGINT, SIGUSR2 or SIGTERM, as a shell or as Python says it."""
    return exit_status in {sign for number in (1, 2, 12, 15) for sign in (-number, 128 + number)}


def _here(latest: Attempt | None, seen: Seen) -> tuple[State, str]:
    if seen.state == "finished":
        return "finished", ""
    if seen.alive:
        return "running", f"on GPU {latest.gpu}" if latest and latest.ended_ms is None and latest.gpu else ""
    stopped = "stopped" + _progress(seen)
    # It failed, and was not trained on since, outside of the sweep.
    if latest and latest.ended_ms is not None and latest.exit_status != 0 and seen.started_ms <= latest.ended_ms:
        if is_stop(latest.exit_status):
            return "waiting", stopped
        return "failed", latest.last_words or f"exit status {latest.exit_status}"
    match seen.state:
        case "failed":
            return "failed", seen.message
        case "interrupted":
            return "waiting", stopped
        case None if latest is None or latest.ended_ms is not None:
            return "waiting", ""
    return "lost", f"its process vanished{_progress(seen)}; start the sweep again to go on"


def _in_slurm(latest: Attempt, seen: Seen, job: Job | QueueSilent | None, jobs: Path) -> tuple[State, str]:
    name = f"job {latest.job}"
    began = latest.pid != 0
    status = latest.exit_status if began and latest.ended_ms is not None else None
    if seen.state == "finished":
        return "finished", name
    if isinstance(job, QueueSilent):
        return ("running", name) if seen.alive else ("unknown", f"{name}: {job}")
    if job is not None and job.pending:
        return "queued", name + (f": {job.reason}" if job.reason != "None" else "") + _progress(seen)
    if job is not None and job.active:
        # Others of its job go on; a killed one starts again.
        if status not in (None, 0, KILLED) and not is_stop(status):
            return "failed", latest.last_words
        return "running", f"{name} on {job.nodes or latest.host}" + (f", GPU {latest.gpu}" if latest.gpu else "")
    if seen.alive and (job is None or seen.holder != job.number):  # somebody trains it outside of the sweep
        return "running", ""
    if status and not is_stop(status) or began and seen.state == "failed":
        return _here(latest, seen._replace(alive=False))
    if job is None or began and job.unrecorded:
        return "lost", f"SLURM does not know {name} any more{_progress(seen)}"
    if job.cancelled:
        return "cancelled", f"{name}{_progress(seen)}"
    if status is not None and is_stop(status):
        return "failed", f"{name}: stopped{_progress(seen)}, and not requeued any more (hydra.launcher.requeues)"
    if began:
        return "lost" if job.state == "COMPLETED" else "failed", f"{name}: {job.state}{_progress(seen)}"
    return "failed", f"{name}: {job.state} before the run began; see {jobs}/{latest.job}_0_log.err"


def _progress(seen: Seen) -> str:
    return f" after epoch {seen.epochs}" if seen.epochs else ""
