"""The ledger of a sweep: which runs it has, and what became of each.

One file, ledger.json in the sweep's folder, written by the one process that launches the sweep and read by anybody. It says
what was launched and how the processes ended; how far a run has come its own folder says, as seen by `observe`.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from mcl_lab.errors import RunFailed

FILE_NAME = "ledger.json"
FORMAT = 1

State = Literal["waiting", "running", "finished", "failed", "lost"]


@dataclass
class Attempt:
    """One process that was started for a run. `gpu`: what it was given, None for a CPU. `exit_status` and `ended_ms` are None
    while it runs, and for ever when its launcher was gone at its end; a status below 0 is the signal that killed it."""

    pid: int
    process_start: str | None  # tells the process from another that gets its number
    host: str
    gpu: str | None
    started_ms: int
    ended_ms: int | None = None
    exit_status: int | None = None
    last_words: str = ""  # the last line that it printed


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

    @property
    def name(self) -> str:
        return Path(self.folder).name

    @property
    def latest(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None


class Seen(NamedTuple):
    """What a run's folder and processes say at a moment.

    alive: a living process trains it, or is about to. state: the journal's last word (running, finished, failed,
    interrupted), None before the first. epochs: done so far. accuracies: latest test accuracies (%) of the own heads.
    """

    alive: bool
    state: str | None
    message: str
    epochs: int
    accuracies: list[float]


class Standing(NamedTuple):
    """How a run stands, and in words what there is to say about it."""

    state: State
    detail: str
    seen: Seen


class Ledger:
    """The runs of a sweep, in the order in which they are launched.

    read, write: of a JSON object from and to a path, None for a file that is not there; writing replaces it whole.
    observe: what there is to see of a run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        read: Callable[[Path], dict | None],
        write: Callable[[Path, dict], None],
        observe: Callable[[Run], Seen],
    ):
        self.folder = folder
        self._write = write
        self._observe = observe
        stored = read(folder / FILE_NAME)
        if stored is not None and stored["format"] > FORMAT:
            raise RunFailed(f"{folder / FILE_NAME} was written by a newer mcl_lab; update this one")
        runs = stored["runs"] if stored else []
        self.runs = [Run(**run | {"attempts": [Attempt(**attempt) for attempt in run["attempts"]]}) for run in runs]

    def enter(self, runs: Iterable[Run]) -> list[Run]:
        """Take in runs that are not there yet, known by their folders; returns all that were named, with their attempts."""
        known = {run.folder: run for run in self.runs}
        named = []
        for run in runs:
            run.attempts = known[run.folder].attempts if run.folder in known else []
            known[run.folder] = run
            named.append(run)
        self.runs = list(known.values())
        self.save()
        return named

    def save(self) -> None:
        """Bring what was changed in `runs` to the disk."""
        self._write(self.folder / FILE_NAME, {"format": FORMAT, "runs": [asdict(run) for run in self.runs]})

    def standing(self, run: Run) -> Standing:
        """How a run stands now."""
        seen = self._observe(run)
        return Standing(*_standing(run, seen), seen)


def _standing(run: Run, seen: Seen) -> tuple[State, str]:
    latest = run.latest
    if seen.state == "finished":
        return "finished", ""
    if seen.alive:
        return "running", f"on GPU {latest.gpu}" if latest and latest.ended_ms is None and latest.gpu else ""
    if latest is not None and latest.ended_ms is not None and latest.exit_status != 0:
        if is_stop(latest.exit_status):
            return "waiting", f"stopped after epoch {seen.epochs}" if seen.epochs else "stopped"
        return "failed", latest.last_words or f"exit status {latest.exit_status}"
    if seen.state == "failed":
        return "failed", seen.message
    if seen.state == "running" or latest is not None and latest.ended_ms is None:
        return "lost", f"its process vanished after epoch {seen.epochs}; start the sweep again to go on"
    return "waiting", f"stopped after epoch {seen.epochs}" if seen.epochs else ""


def is_stop(exit_status: int) -> bool:
    """Whether a process ended because it was asked to: SIGHUP, SIGINT, SIGUSR2 or SIGTERM, as a shell or as Python says it."""
    return exit_status in {sign for number in (1, 2, 12, 15) for sign in (-number, 128 + number)}
