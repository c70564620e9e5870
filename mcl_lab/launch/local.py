"""The local launcher: the runs of a sweep in processes of their own on this machine, some at a time."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

from mcl_lab.errors import Interrupted
from mcl_lab.launch.devices import cpu_cores, visible_gpus
from mcl_lab.launch.ledger import Attempt, Ledger, Run

POLL = 0.2  # seconds between two looks at the processes
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LocalLauncher:
    """Launches runs in their order as places get free.

    jobs: runs at a time; None: `runs_per_gpu` for each GPU, or one for every two CPU cores when there are none or no run
    wants one. gpus: numbers of those to use, None for all that are visible; each run sees the one that it is given.
    """

    def __init__(
        self,
        jobs: Annotated[int, ">= 1"] | None = None,
        gpus: Sequence[Annotated[int, ">= 0"]] | None = None,
        runs_per_gpu: Annotated[int, ">= 1"] = 1,
    ):
        self.jobs = jobs
        self.gpus = None if gpus is None else [str(number) for number in gpus]
        self.runs_per_gpu = runs_per_gpu

    def launch(
        self,
        ledger: Ledger,
        runs: Sequence[Run],
        *,
        prepare: Callable[[Run], list[str]],
        environment: Mapping[str, str],
        identify: Callable[[int], tuple[str | None, str]],
        show: Callable[[], None],
    ) -> None:
        """Bring `runs` of the ledger to their end: what is finished is left alone, what runs already is waited for.

        prepare: makes a run's folder ready and returns the command that trains it. environment: of its process. identify:
        the start that tells process number pid from another of its number, and this host's name. show: called again and
        again while it goes on.
        One run's failure stops no other. On SIGINT, SIGTERM or SIGHUP the processes are asked to stop, the second such signal
        kills them; raises Interrupted when they are gone.
        """
        places = self._places(any(run.uses_gpu for run in runs))
        threads = max(1, cpu_cores() // len(places))
        work = _Work(ledger, runs, places, prepare, {"OMP_NUM_THREADS": str(threads), **environment}, identify)
        with _stop_requests() as received:
            while not work.done(stopping=bool(received)):
                work.collect()
                if received:
                    work.stop(kill=len(received) > 1)
                else:
                    work.start_waiting()
                show()
                time.sleep(POLL)
        if received:
            raise Interrupted("by " + signal.Signals(received[0]).name + "; the same command goes on with the sweep", received[0])

    def _places(self, gpus_wanted: bool) -> list[str | None]:
        """A GPU, or None for the CPU, for each run that goes on at the same time; first one on every GPU."""
        gpus = (visible_gpus() if self.gpus is None else self.gpus) if gpus_wanted else []
        places = gpus * self.runs_per_gpu or [None] * (self.jobs or max(1, cpu_cores() // 2))
        return places[: self.jobs]


class _Work:
    """The runs still to be brought to an end: those that wait, and processes in their places.

    A process is our child, or None for one that an earlier launcher started and left behind.
    """

    def __init__(
        self,
        ledger: Ledger,
        runs: Sequence[Run],
        places: list[str | None],
        prepare: Callable[[Run], list[str]],
        environment: dict[str, str],
        identify: Callable[[int], tuple[str | None, str]],
    ):
        self.ledger = ledger
        self.prepare = prepare
        self.environment = environment
        self.identify = identify
        self.waiting: list[Run] = []
        self.active: list[tuple[Run, subprocess.Popen | None]] = []
        self._told: set[tuple[str, int]] = set()  # (run, signal) pairs that were sent
        self.places = places
        for run in runs:
            state = ledger.standing(run).state
            if state == "running" and self._is_ours(run.latest):
                self.active.append((run, None))
                if run.latest.gpu in self.places:
                    self.places.remove(run.latest.gpu)
            elif state != "finished":
                self.waiting.append(run)

    def done(self, *, stopping: bool) -> bool:
        return not self.active and (stopping or not self.waiting)

    def collect(self) -> None:
        """Note what has ended."""
        for run, child in list(self.active):
            if child is None and self._is_ours(run.latest) or child is not None and child.poll() is None:
                continue
            self.active.remove((run, child))
            self.places.append(run.latest.gpu)
            if child is not None:
                self._note_end(run, child.returncode)
            elif self.ledger.standing(run).state in ("waiting", "lost"):
                self.waiting.append(run)

    def start_waiting(self) -> None:
        """Give free places to the runs that wait."""
        for run in list(self.waiting):
            if not self.places:
                return
            state = self.ledger.standing(run).state
            if state == "running":  # by somebody else, alone or in another sweep: its turn comes when that has ended
                continue
            self.waiting.remove(run)
            if state != "finished":
                self._start(run, self.places.pop(0))

    def stop(self, *, kill: bool) -> None:
        """Ask every process once to stop in good order, or kill it."""
        for run, _ in self.active:
            number = signal.SIGKILL if kill else signal.SIGTERM
            if (run.name, number) not in self._told:
                self._told.add((run.name, number))
                with suppress(ProcessLookupError):  # it has just gone
                    os.kill(run.latest.pid, number)

    def _start(self, run: Run, gpu: str | None) -> None:
        own = {"CUDA_VISIBLE_DEVICES": gpu or ""} if gpu or not run.uses_gpu else {}
        log = Path(run.log)
        try:
            command = self.prepare(run)
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "a", encoding="utf-8") as output:
                output.write(f"$ {shlex.join(command)}\n")
                output.flush()
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self.environment | own,
                    start_new_session=True,  # Ctrl-C is for the launcher, which tells the runs
                )
        except OSError as error:
            run.attempts.append(Attempt(0, None, "", gpu, _now_ms(), _now_ms(), 1, f"cannot be started: {error}"))
            self.places.append(gpu)
        else:
            run.attempts.append(Attempt(child.pid, *self.identify(child.pid), gpu, _now_ms()))
            self.active.append((run, child))
        self.ledger.save()

    def _note_end(self, run: Run, status: int) -> None:
        latest = run.latest
        latest.ended_ms, latest.exit_status = _now_ms(), status
        latest.last_words = f"killed by {signal.Signals(-status).name}" if status < 0 else _last_line(Path(run.log))
        self.ledger.save()

    def _is_ours(self, attempt: Attempt | None) -> bool:
        """Whether the process of that attempt is still there."""
        if attempt is None or attempt.ended_ms is not None:
            return False
        start, host = self.identify(attempt.pid)
        return attempt.host == host and start is not None and start == attempt.process_start


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Within it STOP_SIGNALS are only noted, in the list that it yields."""
    received: list[int] = []
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(log: Path) -> str:
    """The last line of what a process printed, which says why it failed."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("mcl_lab: error: ") if lines else ""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
