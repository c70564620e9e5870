"""The sender: a process of its own that carries a run's record to its store while the run goes on.

    python -m mcl_lab.tracking.sender FOLDER --pid PID [--system SECONDS]

It follows the run of process PID until the run has ended, or the process is gone, and everything is delivered, and then
delivers what other runs of the sweep left behind; meanwhile it samples the machine, when it is asked to. The training
process knows nothing of it: MLflow may be slow, away or not installed.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mcl_lab.errors import RunFailed
from mcl_lab.host.files import exclusive
from mcl_lab.host.modules import own_process
from mcl_lab.host.processes import ProcessId
from mcl_lab.host.secrets import without_secrets
from mcl_lab.host.text import print_anywhere
from mcl_lab.host.uri import credentials
from mcl_lab.runs.journal import last_word, read_record, read_status
from mcl_lab.runs.layout import RecordFolder
from mcl_lab.tracking.delivery import is_delivered, note_failure, one_line
from mcl_lab.tracking.leftovers import deliver_left_behind
from mcl_lab.tracking.mlflow_calls import LONGEST_PASS, load_deliver
from mcl_lab.tracking.system import Sampler, samples_left

POLL = 1.0  # seconds between two looks at the run folder
LONGEST_PAUSE = 60.0  # seconds between two tries while the store fails, at most
MOST_MEMORY = 2 * 2**30  # bytes; a tenth is usual
SAMPLES_EVERY = 60.0  # seconds between two deliveries of samples, at most, while an epoch takes longer
SAMPLES_SOON = 5.0  # the same while many are left
TRIES_FOR_SAMPLES = 3  # when all but the last of them is delivered; after that only task=sync tries
AFTER_END = 600.0  # seconds that are spent on trying after the run's end, and then on what others left behind


def start_sender(folder: Path | str, uri: str | None = None, system: float | None = None) -> subprocess.Popen | None:
    """Start the sender of this process's run; None when the run is not tracked or no process can be started.

    `uri` is the tracking URI as the user gave it: user and password in it reach the sender by its environment only.
    `system`: seconds between two samples of the machine, None for none.
    To be called after `Journal.begin` and `Journal.status("running")`.
    """
    folder = Path(folder).absolute()
    record = read_record(folder)
    if record is None or record["uri"] is None:
        return None
    environment = os.environ | credentials(uri or record["uri"])
    command = own_process("mcl_lab.tracking.sender", str(folder), "--pid", str(os.getpid()))
    command += [] if system is None else ["--system", str(system)]
    try:
        with open(RecordFolder(folder).sender_log, "ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
    except OSError:  # no memory, too many processes: the journal keeps the record and task=sync delivers it
        return None


def follow(
    folder: Path | str,
    pid: int,
    *,
    poll: float = POLL,
    longest_pause: float = LONGEST_PAUSE,
    after_end: float = AFTER_END,
    longest_pass: float = LONGEST_PASS,
    system: float | None = None,
) -> bool:
    """Deliver the run of process `pid` as it goes on; True when there is nothing left to deliver, False when given up.

    One sender a folder: a second waits for the first to leave and then finds nothing to do, or what the first left.
    """
    folder, process = Path(folder), ProcessId.of(pid)
    with exclusive(RecordFolder(folder).sender_lock):
        try:
            deliver = load_deliver(longest_pass)  # here: it costs seconds, and MLflow may be missing
        except RunFailed as error:
            _log(str(error))
            note_failure(folder, str(error), failures=1, ended=False, gave_up=True)
            return False
        sampler = None
        if system is not None:
            sampler = Sampler(folder, system, lambda: _is_over(folder, process), _log)
            sampler.start()
        pace = {"poll": poll, "longest_pause": longest_pause, "after_end": after_end}
        try:
            done = _Follower(deliver, folder, process, sampler, **pace).to_the_end()
        finally:
            if sampler is not None:
                sampler.stop()  # before another sender gets the folder
        if done:
            try:
                deliver_left_behind(deliver, folder, seconds=after_end)
            except Exception as error:  # whatever a store may raise, or a file system
                _log(one_line(error))
        return done


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 when everything is delivered."""
    parser = argparse.ArgumentParser(prog="python -m mcl_lab.tracking.sender", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="run folder")
    parser.add_argument("--pid", type=int, required=True, help="the training process")
    parser.add_argument("--system", type=float, help="seconds between two samples of the machine; none without")
    options = parser.parse_args(arguments)
    print_anywhere()
    # A scheduler stops a job by signalling all of its processes. The training process answers by writing its last word,
    # and that is to be delivered: this process ends by itself, soon after that one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)  # training comes first
    with suppress(OSError, ValueError):
        # A server that answers without end must not take the memory that training needs.
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    try:
        return 0 if follow(options.folder, options.pid, system=options.system) else 1
    except Exception:  # by itself it would be printed with the secrets in it
        _log(traceback.format_exc())
        return 1


class _Look(NamedTuple):
    """How a run and its delivery stand at a moment."""

    gone: bool  # its process is no more
    own: bool  # the journal's last word is that process's
    ended: bool  # the run has had its last word
    delivered: bool  # the store has all of it, but for samples
    complete: bool  # and these
    files: list[tuple[int, int] | None]  # changes when there is something to send


class _Follower:
    """The delivery of one process's run as it goes on."""

    def __init__(
        self,
        deliver: Callable[..., bool],
        folder: Path,
        process: ProcessId,
        sampler: Sampler | None,
        *,
        poll: float,
        longest_pause: float,
        after_end: float,
    ):
        self.deliver, self.folder, self.process, self.sampler = deliver, folder, process, sampler
        self.poll, self.longest_pause, self.after_end = poll, longest_pause, after_end
        self.sent: list[tuple[int, int] | None] | None = None  # the files as they were at the last delivery
        self.failures = 0  # in a row
        self.next_try = 0.0
        self.next_samples = self.deadline = float("inf")  # the latter begins at the run's end

    def to_the_end(self) -> bool:
        """Deliver until there is nothing left, and return True, or until it is given up."""
        while True:
            # In this order: a process that writes its last word and goes must not be taken for one that vanished.
            gone = not self.process.is_alive()
            try:
                now = self._look(gone)
            except OSError as error:  # a file system that stumbles
                if gone:
                    _log(one_line(error))
                    return False
                time.sleep(self.poll)
                continue
            done = self._done(now)
            if done is not None:
                return done
            if not (self._is_due(now) and self._try(now)):
                time.sleep(self.poll)

    def _look(self, gone: bool) -> _Look:
        status = read_status(self.folder)
        own = status is not None and (status["pid"], status["host"]) == (self.process.pid, self.process.host)
        ended = own and last_word(status, gone) is not None
        if ended and self.sampler is not None:
            self.sampler.stop()
        delivered, files = is_delivered(self.folder, vanished=gone), _signature(self.folder)
        return _Look(gone, own, ended, delivered, delivered and not samples_left(self.folder), files)

    def _done(self, now: _Look) -> bool | None:
        """What `to_the_end` returns; None while there is more to do."""
        if now.gone and not now.own:
            return True  # another process goes on with the run, and has a sender of its own
        late = time.monotonic() > self.deadline
        if now.own and now.delivered and (now.complete or late or self.failures >= TRIES_FOR_SAMPLES):
            return True
        if now.ended and self.deadline == float("inf"):
            self.failures, self.next_try = 0, 0.0
            self.deadline = time.monotonic() + self.after_end
        return False if late else None

    def _is_due(self, now: _Look) -> bool:
        """Whether it is time for a try, and there is something to send, or to send again."""
        moment = time.monotonic()
        news = now.files != self.sent or self.failures > 0 or now.ended or moment >= self.next_samples
        return news and moment >= self.next_try

    def _try(self, now: _Look) -> bool:
        """Deliver what there is; False when the store failed, which is noted."""
        try:
            self.deliver(self.folder, vanished=now.gone)
            self.sent, self.failures = now.files, 0
            if self.sampler is not None:
                self.next_samples = time.monotonic() + (SAMPLES_SOON if samples_left(self.folder) else SAMPLES_EVERY)
            return True
        except Exception as error:  # whatever a store may raise, the run must not notice
            _log(traceback.format_exc() if self.failures == 0 else one_line(error))
            self.failures += 1
            self.next_try = time.monotonic() + min(self.longest_pause, 2.0 ** (self.failures - 1))
            note_failure(self.folder, one_line(error), failures=self.failures, ended=now.ended)
            return False


def _is_over(folder: Path, process: ProcessId) -> bool:
    """Whether the process is gone, or the run in its folder has had its last word."""
    return not process.is_alive() or last_word(read_status(folder), vanished=False) is not None


def _log(text: str) -> None:
    """Into sender.log, which is this process's output; on a full disk it misses lines."""
    with suppress(OSError):
        print(time.strftime("%Y-%m-%d %H:%M:%S"), without_secrets(text), flush=True)


def _signature(folder: Path) -> list[tuple[int, int] | None]:
    """Changes when there is something to send."""
    run = RecordFolder(folder)
    files = (run.record, run.status, run.epochs)
    return [(file.stat().st_mtime_ns, file.stat().st_size) if file.exists() else None for file in files]


if __name__ == "__main__":
    sys.exit(main())
