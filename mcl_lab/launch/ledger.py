"""The ledger of a sweep: which runs it has, and what became of each.

One file, ledger.json in the sweep's folder, written by the one process that launches the sweep and read by anybody. It says
what was launched and how the processes ended; how far a run has come its own folder says, as seen by `observe`, and what
SLURM has done with a job `ask`. Each job keeps a ledger of its own runs in jobs/<id>, from which the sweep's takes their
attempts: so every ledger has one writer.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

from mcl_lab.errors import RunFailed
from mcl_lab.launch.queue import Job, QueueSilent, ask

FILE_NAME = "ledger.json"
JOBS = "jobs"  # the folder of jobs in a sweep's, for what submitit writes as well
FORMAT = 2
KILLED = -9  # the exit status of a process that the system took away, for want of memory perhaps
FRESH = 5.0  # seconds for which SLURM's answer is taken for the present

State = Literal["waiting", "queued", "running", "finished", "cancelled", "failed", "lost", "unknown"]
GOING_ON = ("queued", "running", "unknown")  # the states that a run leaves by itself, or may


@dataclass
class Attempt:
    """One process that was started for a run, or a job of SLURM that will start it: `pid` is 0 until then.

    `gpu`: what it was given, None for a CPU. `exit_status` and `ended_ms` are None while it runs, and for ever when its
    launcher was gone at its end; a status below 0 is the signal that killed it. `job`: SLURM's id, `12_3` for index 3
    of an array, None for a process of this machine's launcher; `sweep`: the folder of another sweep that submitted it.
    """

    pid: int
    process_start: str | None  # tells the process from another that gets its number
    host: str
    gpu: str | None
    started_ms: int
    ended_ms: int | None = None
    exit_status: int | None = None
    last_words: str = ""  # the last line that it printed
    job: str | None = None
    sweep: str | None = None

    def __post_init__(self):
        _check_types(self)
        if self.job is not None and not re.fullmatch(r"\d+(_\d+)?", self.job):  # it goes into commands and paths
            raise RunFailed(f"{self.job!r} in a ledger is no job of SLURM")


@dataclass
class Run:
    """A run of the sweep: its folder, the labels that people know it by, its attempts.

    uses_gpu: whether it may be given one. log: the file that its processes print into.
    """

    folder: str
    run_key: str
    pair: str
    loss: str
    dataset: str
    seed: int
    epochs: int
    uses_gpu: bool
    log: str
    attempts: list[Attempt] = field(default_factory=list)

    def __post_init__(self):
        _check_types(self)

    @property
    def name(self) -> str:
        return Path(self.folder).name

    @property
    def latest(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None


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


class Ledger:
    """The runs of a sweep, in the order in which they are launched.

    read, write: of a JSON object from and to a path, None for a file that is not there; writing replaces it whole.
    observe: what there is to see of a run. ask: what SLURM has done with jobs, by their ids; raises QueueSilent.
    `launcher`: what must be known to submit again, None for a sweep of this machine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        read: Callable[[Path], dict | None],
        write: Callable[[Path, dict], None],
        observe: Callable[[Run], Seen],
        ask: Callable[[Sequence[str]], Mapping[str, Job]] = ask,
    ):
        self.folder = folder
        self._read = read
        self._write = write
        self._observe = observe
        self._ask = ask
        self._jobs: Mapping[str, Job] | QueueSilent = {}
        self._asked_for: frozenset[str] = frozenset()
        self._asked = float("-inf")
        self._changed: int | None = None  # when the file did, at the last `refresh`
        stored = read(folder / FILE_NAME)
        if stored is not None and isinstance(stored.get("format"), int) and stored["format"] > FORMAT:
            raise RunFailed(f"{folder / FILE_NAME} was written by a newer mcl_lab; update this one")
        self.runs = _runs_in(stored)
        self.launcher: dict[str, Any] | None = stored.get("launcher") if stored else None
        if self.launcher is not None and not _is_launcher(self.launcher):
            raise RunFailed(f"{folder / FILE_NAME} does not say how the sweep was submitted")

    def enter(self, runs: Iterable[Run]) -> list[Run]:
        """Take in runs that are not there yet, known by their folders; returns all that were named, with their attempts."""
        known = {run.folder: run for run in self.runs}
        named = []
        for run in runs:
            if run.folder in known:
                run.attempts = known[run.folder].attempts
            known[run.folder] = run
            named.append(run)
        self.runs = list(known.values())
        self.save()
        return named

    def try_to_save(self) -> None:
        """`save`, but for what the disk has against it: it is tried again at the next change."""
        with suppress(OSError):
            self.save()

    def save(self) -> None:
        """Bring what was changed in `runs` to the disk. Raises OSError."""
        content = {"format": FORMAT, "launcher": self.launcher, "runs": [asdict(run) for run in self.runs]}
        self._write(self.folder / FILE_NAME, content)

    def standings(self, runs: Iterable[Run]) -> list[tuple[Run, Standing]]:
        """How some runs stand now, each with its run."""
        return [(run, self.standing(run)) for run in runs]

    def standing(self, run: Run) -> Standing:
        """How a run stands now."""
        if run.latest is None or run.latest.job is None:
            seen = self._observe(run)
            return Standing(*_standing(run, seen), seen)
        job = self._job(run.latest.job)  # first: a run that ends meanwhile has left its last word when it is looked for
        self._hear(run)
        seen = self._observe(run)
        return Standing(*_submitted_standing(run, seen, job, Path(run.latest.sweep or self.folder) / JOBS), seen)

    def refresh(self) -> None:
        """Take over what another process has written of the runs since."""
        try:
            changed = (self.folder / FILE_NAME).stat().st_mtime_ns
        except OSError:  # a file system that stumbled
            return
        if changed == self._changed:
            return
        self._changed = changed
        known = {run.folder: run for run in self.runs}
        for run in _runs_in(self._read(self.folder / FILE_NAME)):
            if run.folder in known:
                known[run.folder].attempts = run.attempts
            else:
                self.runs.append(run)

    def jobs_in_queue(self) -> list[str]:
        """The jobs of this sweep that wait or run. Raises RunFailed when SLURM does not answer."""
        found = []
        for run in self.runs:
            if run.latest and run.latest.job and not run.latest.sweep:
                job = self._job(run.latest.job)
                if isinstance(job, QueueSilent):
                    raise RunFailed(str(job))
                if job and (job.pending or job.active):
                    found.append(run.latest.job)
        return sorted(set(found))

    def ask_again(self) -> None:
        """Take SLURM's last answer for old: something was done about the jobs."""
        self._asked = float("-inf")

    def _job(self, name: str) -> Job | QueueSilent | None:
        """What SLURM says of a job, by asking about all of the ledger's at once; None for one that it does not know."""
        if time.monotonic() - self._asked > FRESH or name not in self._asked_for:
            names = sorted({name, *(run.latest.job for run in self.runs if run.latest and run.latest.job)})
            try:
                self._jobs = self._ask(names)
            except QueueSilent as silent:
                self._jobs = silent
            self._asked, self._asked_for = time.monotonic(), frozenset(names)
        return self._jobs if isinstance(self._jobs, QueueSilent) else self._jobs.get(name)

    def _hear(self, run: Run) -> None:
        """Take over the attempts that the run's latest job has noted."""
        job, sweep = run.latest.job, run.latest.sweep
        noted = _runs_in(self._read(Path(sweep or self.folder) / JOBS / job / FILE_NAME))
        attempts = [attempt for other in noted if other.folder == run.folder for attempt in other.attempts]
        if attempts:
            for attempt in attempts:
                attempt.job, attempt.sweep = job, sweep
            run.attempts = [attempt for attempt in run.attempts if attempt.job != job] + attempts


def _runs_in(stored: dict | None) -> list[Run]:
    """Raises RunFailed for what no launcher wrote."""
    try:
        runs = stored["runs"] if stored else []
        return [Run(**run | {"attempts": [Attempt(**attempt) for attempt in run["attempts"]]}) for run in runs]
    except (KeyError, TypeError) as error:
        raise RunFailed(f"{FILE_NAME} is damaged, or no ledger: {error}") from error


def _is_launcher(launcher: Any) -> bool:
    """Whether this is what a sweep was submitted by."""
    return (
        isinstance(launcher, dict)
        and isinstance(launcher.get("settings"), dict)
        and isinstance(launcher.get("config_dir", 0), str | None)
        and isinstance(launcher.get("cwd"), str)
    )


def _check_types(value: "Run | Attempt") -> None:
    """Raise TypeError for a field of another type than it is declared with."""
    for name, kind in get_type_hints(type(value)).items():
        if name != "attempts" and not isinstance(getattr(value, name), kind):
            raise TypeError(f"{name} is {getattr(value, name)!r}")


def _standing(run: Run, seen: Seen) -> tuple[State, str]:
    latest = run.latest
    if seen.state == "finished":
        return "finished", ""
    if seen.alive:
        return "running", f"on GPU {latest.gpu}" if latest and latest.ended_ms is None and latest.gpu else ""
    stopped = "stopped" + _progress(seen)
    failed = latest is not None and latest.ended_ms is not None and latest.exit_status != 0
    if failed and seen.started_ms <= latest.ended_ms:  # else it was trained on since, outside of the sweep
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


def _submitted_standing(run: Run, seen: Seen, job: Job | QueueSilent | None, jobs: Path) -> tuple[State, str]:
    """Of a run whose latest attempt is a job, which SLURM knows best about. jobs: where submitit keeps their output."""
    latest = run.latest
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
        if status not in (None, 0, KILLED) and not is_stop(
            status
        ):  # others of its job go on; a killed one starts again
            return "failed", latest.last_words
        return "running", f"{name} on {job.nodes or latest.host}" + (f", GPU {latest.gpu}" if latest.gpu else "")
    if seen.alive and (job is None or seen.holder != job.number):  # somebody trains it outside of the sweep
        return "running", ""
    if status and not is_stop(status) or began and seen.state == "failed":
        return _standing(run, seen._replace(alive=False))
    if job is None or began and job.unrecorded:
        return "lost", f"SLURM does not know {name} any more{_progress(seen)}"
    if job.cancelled:
        return "cancelled", f"{name}{_progress(seen)}"
    if status is not None and is_stop(status):
        return "failed", f"{name}: stopped{_progress(seen)}, and not requeued any more (hydra.launcher.requeues)"
    if began:
        return "lost" if job.state == "COMPLETED" else "failed", f"{name}: {job.state}{_progress(seen)}"
    return "failed", f"{name}: {job.state} before the run began; see {jobs / latest.job}_0_log.err"


def _progress(seen: Seen) -> str:
    return f" after epoch {seen.epochs}" if seen.epochs else ""


def is_stop(exit_status: int) -> bool:
    """Whether a process was asked to end: by SIGHUP, SIGINT, SIGUSR2 or SIGTERM, as a shell or as Python says it."""
    return exit_status in {sign for number in (1, 2, 12, 15) for sign in (-number, 128 + number)}
