"""The local launcher: the runs of a sweep in processes of their own on this machine, some at a time."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, NamedTuple

from mcl_lab.errors import InputError, Interrupted
from mcl_lab.host import last_words
from mcl_lab.host.clock import now_ms
from mcl_lab.host.processes import ProcessId
from mcl_lab.launch.devices import cpu_cores, visible_gpus
from mcl_lab.launch.ledger import Ledger
from mcl_lab.launch.ledger_run import Attempt, LedgerRun
from mcl_lab.launch.standing import GOING_ON

POLL = 0.2  # seconds between two looks at the processes
NEXT_LOOK = 1.0  # seconds between two looks at a run that somebody else trains
PATIENCE = 1.0  # seconds after a Ctrl-C before which another is taken for the same
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


class LocalLauncher:
    """Launches runs in their order as places get free.

    jobs: runs at a time; None: `runs_per_gpu` for each GPU, or one for every two CPU cores when there are none or no run
    wants one. gpus: numbers of those to use, None for all that are visible; each run sees the one that it is given.
    Raises InputError for GPUs that this process may not use.
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
        if self.gpus is not None:
            allowed = visible_gpus() if "CUDA_VISIBLE_DEVICES" in os.environ else self.gpus
            if not self.gpus or len(set(self.gpus)) < len(self.gpus) or not set(self.gpus) <= set(allowed):
                raise InputError(
                    "hydra.launcher.gpus", f"must be different numbers out of {', '.join(allowed) or 'none'}"
                )

    def launch(
        self,
        ledger: Ledger,
        runs: Sequence[LedgerRun],
        *,
        prepare: Callable[[LedgerRun], list[str]],
        environment: Mapping[str, str],
        show: Callable[[], None],
    ) -> None:
        """Bring `runs` of the ledger to their end: what is finished is left alone, what runs already is waited for.

        prepare: makes a run's folder ready and returns the command that trains it. environment: of its process. show:
        called again and again while it goes on.
        One run's failure stops no other. On one of STOP_SIGNALS the processes are asked to stop, and a second Ctrl-C kills
        them; raises Interrupted when they are gone and something is left to do. They are asked as well before any
        exception leaves here: none goes on without a launcher, unless this process is killed.
        """
        places = self._places(any(run.uses_gpu for run in runs))
        threads = max(1, cpu_cores() // len(places))
        work = _Work(ledger, runs, places, prepare, {"OMP_NUM_THREADS": str(threads), **environment})
        with _stop_requests() as received:
            try:
                while not work.done(stopping=bool(received)):
                    work.collect()
                    if received:
                        work.stop(signal.SIGKILL if _is_urgent(received) else signal.SIGTERM)
                    else:
                        work.start_waiting()
                    show()
                    time.sleep(POLL)
            finally:
                while work.active:
                    work.stop(signal.SIGKILL if _is_urgent(received) else signal.SIGTERM)
                    time.sleep(POLL)
                    work.collect()
        ledger.save()
        if received and any(ledger.standing(run).state != "finished" for run in runs):
            raise Interrupted(f"by {received[0][0].name}; the same command goes on with the sweep", int(received[0][0]))

    def _places(self, gpus_wanted: bool) -> list[str | None]:
        """A GPU, or None for the CPU, for each run that goes on at the same time; first one on every GPU."""
        gpus = (visible_gpus() if self.gpus is None else self.gpus) if gpus_wanted else []
        if not gpus:
            return [None] * (self.jobs or max(1, cpu_cores() // 2))
        return [gpus[number % len(gpus)] for number in range(self.jobs or len(gpus) * self.runs_per_gpu)]


class _Active(NamedTuple):
    """A run in its place, and the attempt that is under way. `child` is None for a process that an earlier launcher started and
    left behind; `places` holds what gets free at its end, nothing when it took no place of ours. `printed_from`: where in
    the log its output begins."""

    run: LedgerRun
    attempt: Attempt
    child: subprocess.Popen | None
    places: list[str | None]
    printed_from: int = 0

    @property
    def goes_on(self) -> bool:
        return self.attempt.goes_on if self.child is None else self.child.poll() is None


class _Work:
    """The runs still to be brought to an end: those that wait, and those that are under way."""

    def __init__(
        self,
        ledger: Ledger,
        runs: Sequence[LedgerRun],
        places: list[str | None],
        prepare: Callable[[LedgerRun], list[str]],
        environment: dict[str, str],
    ):
        self.ledger = ledger
        self.prepare = prepare
        self.environment = environment
        self.places = places
        self.waiting: list[LedgerRun] = []
        self.active: list[_Active] = []
        self._told: set[tuple[int, int]] = set()  # (pid, signal) pairs that were sent
        self._next_look: dict[str, float] = {}  # at runs that somebody else trains, by folder
        for run in runs:
            state, latest = ledger.standing(run).state, run.latest
            if state == "running" and latest is not None and latest.job is None and latest.goes_on:
                taken = latest.gpu if latest.gpu in places else None
                if taken in places:
                    places.remove(taken)
                    self.active.append(_Active(run, latest, None, [taken]))
                else:  # more were left behind than there are places now
                    self.active.append(_Active(run, latest, None, []))
            elif state != "finished":
                self.waiting.append(run)

    def done(self, *, stopping: bool) -> bool:
        return not self.active and (stopping or not self.waiting)

    def collect(self) -> None:
        """Note what has ended."""
        for active in list(self.active):
            if active.goes_on:
                continue
            self.active.remove(active)
            self.places += active.places
            if active.child is not None:
                self._note_end(active, active.child.returncode)
            else:
                self._note_words(active)
            state = self.ledger.standing(active.run).state
            # Running: somebody else's process was faster, and ours gave way. One that was left behind is gone on with.
            if state == "running" or active.child is None and state in ("waiting", "lost"):
                self.waiting.append(active.run)

    def start_waiting(self) -> None:
        """Give free places to the runs that wait."""
        for run in list(self.waiting):
            if not self.places:
                return
            if time.monotonic() < self._next_look.get(run.folder, 0.0):
                continue
            state = self.ledger.standing(run).state
            if state in GOING_ON:  # somebody else's, alone or in another sweep: its turn comes after that
                self._next_look[run.folder] = time.monotonic() + NEXT_LOOK
                continue
            self.waiting.remove(run)
            if state != "finished":
                self._start(run, self.places.pop(0))

    def stop(self, number: signal.Signals) -> None:
        """Send every process the signal, once."""
        for _, attempt, *_ in self.active:
            if (attempt.pid, number) not in self._told:
                self._told.add((attempt.pid, number))
                with suppress(ProcessLookupError):  # it has just gone
                    os.kill(attempt.pid, number)

    def _start(self, run: LedgerRun, place: str | None) -> None:
        gpu = place if run.uses_gpu else None
        log = Path(run.log)
        try:
            command = self.prepare(run)
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "a", encoding="utf-8") as output:
                output.write(f"$ {shlex.join(command)}\n")
                output.flush()
                printed_from = output.tell()
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self.environment | _gpu_variables(run, gpu) | last_words.asked_for(_words_of(run)),
                    start_new_session=True,  # Ctrl-C is for the launcher, which tells the runs
                )
        except (OSError, InputError) as error:
            now = now_ms()
            run.attempts.append(Attempt(0, None, "", gpu, now, now, 1, f"cannot be started: {error}"))
            self.places.append(place)
        else:
            attempt = Attempt(**ProcessId.of(child.pid).fields(), gpu=gpu, started_ms=now_ms())
            run.attempts.append(attempt)
            self.active.append(_Active(run, attempt, child, [place], printed_from))
        self.ledger.try_to_save()

    def _note_end(self, active: _Active, status: int) -> None:
        active.attempt.ended_ms, active.attempt.exit_status = now_ms(), status
        if status != 0:
            printed = last_words.end_of(Path(active.run.log), active.printed_from)
            active.attempt.last_words = last_words.why_ended(status, _words_of(active.run), printed)
        self.ledger.try_to_save()

    def _note_words(self, active: _Active) -> None:
        """Of a process whose exit status is not known: that it failed, when it said why and was not asked to stop."""
        words = last_words.left_in(_words_of(active.run))
        if words and self.ledger.standing(active.run).seen.state != "interrupted":
            active.attempt.ended_ms, active.attempt.last_words = now_ms(), words
            self.ledger.try_to_save()


def _words_of(run: LedgerRun) -> Path:
    """Where a process leaves its last words until the launcher has read them."""
    return Path(run.log).with_suffix(".words")


def _gpu_variables(run: LedgerRun, gpu: str | None) -> dict[str, str]:
    """What a run's process is told of the GPU that it is given."""
    if gpu is None:
        return {} if run.uses_gpu else {"CUDA_VISIBLE_DEVICES": ""}  # a run on the CPU touches no GPU
    # Numbers are nvidia-smi's, unless whoever set that variable had another order in mind.
    order = {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {"CUDA_VISIBLE_DEVICES": gpu, **order}


Received = list[tuple[signal.Signals, float]]  # and when, by the monotonic clock


@contextmanager
def _stop_requests() -> Iterator[Received]:
    """Within it STOP_SIGNALS are only noted, in the list that it yields. One that is ignored, as by nohup, stays so."""
    received: Received = []

    def note(number: int, _) -> None:
        received.append((signal.Signals(number), time.monotonic()))

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number in heeded:
            signal.signal(number, before[number])


def _is_urgent(received: Received) -> bool:
    """Whether a person pressed Ctrl-C again: a closing terminal, and programs that pass signals on, send some at once."""
    pressed = [when for number, when in received if number == signal.SIGINT]
    return bool(pressed) and pressed[-1] - received[0][1] > PATIENCE
