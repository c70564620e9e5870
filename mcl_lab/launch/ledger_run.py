"""What a ledger holds: the runs of a sweep, and of each the attempts to bring it to its end."""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from mcl_lab.errors import RunFailed
from mcl_lab.host.processes import ProcessId
from mcl_lab.runs.layout import SweepFolder


@dataclass
class Attempt:
    """One process that was started for a run, or a job of SLURM that will start it: `pid` is 0 until then.

    `gpu`: what it was given, None for a CPU. `exit_status` and `ended_ms` are None while it runs, and for ever when its
    launcher was gone at its end; a status below 0 is the signal that killed it. `job`: SLURM's id, `12_3` for index 3
    of an array, None for a process of this machine's launcher; `sweep`: the folder of another sweep that submitted it.
    """

    pid: int
    process_start: str | None  # with pid and host: see `process`
    host: str
    gpu: str | None
    started_ms: int
    ended_ms: int | None = None
    exit_status: int | None = None
    last_words: str = ""  # why it failed
    job: str | None = None
    sweep: str | None = None

    def __post_init__(self):
        _check_types(self)
        if self.job is not None and not re.fullmatch(r"\d+(_\d+)?", self.job):  # it goes into commands and paths
            raise RunFailed(f"{self.job!r} in a ledger is no job of SLURM")

    @property
    def process(self) -> ProcessId:
        return ProcessId.read(vars(self))

    @property
    def goes_on(self) -> bool:
        """Whether its process is known to be there still."""
        return self.ended_ms is None and self.process.is_alive()


@dataclass
class LedgerRun:
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

    def stored(self) -> dict[str, Any]:
        """As the file has it."""
        return asdict(self)


def runs_in(stored: dict[str, Any] | None) -> list[LedgerRun]:
    """The runs in a ledger's file. Raises RunFailed for what no launcher wrote."""
    try:
        runs = stored["runs"] if stored else []
        return [LedgerRun(**run | {"attempts": [Attempt(**attempt) for attempt in run["attempts"]]}) for run in runs]
    except (KeyError, TypeError) as error:
        raise RunFailed(f"{SweepFolder.ledger.name} is damaged, or no ledger: {error}") from error


def _check_types(value: LedgerRun | Attempt) -> None:
    """Raise TypeError for a field of another type than it is declared with."""
    for name, kind in get_type_hints(type(value)).items():
        if name != "attempts" and not isinstance(getattr(value, name), kind):
            raise TypeError(f"{name} is {getattr(value, name)!r}")
