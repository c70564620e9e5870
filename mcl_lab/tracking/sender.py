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

from mcl_lab.errors import RunFailed
from mcl_lab.host.files import exclusive
from mcl_lab.host.processes import is_alive, process_start, search_path, this_host
from mcl_lab.host.secrets import without_secrets
from mcl_lab.host.uri import credentials
from mcl_lab.runs.journal import METRICS, RECORD, STATUS, last_word, read_record, read_status
from mcl_lab.tracking.delivery import SENDER_LOCK, is_delivered, note_failure, one_line
from mcl_lab.tracking.leftovers import deliver_left_behind
from mcl_lab.tracking.mlflow_calls import LONGEST_PASS, load_deliver
from mcl_lab.tracking.system import Sampler, samples_left

LOG = "sender.log"
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
    environment = os.environ | {"PYTHONPATH": search_path()} | credentials(uri or record["uri"])
    command = [sys.executable, "-m", "mcl_lab.tracking.sender", str(folder), "--pid", str(os.getpid())]
    command += [] if system is None else ["--system", str(system)]
    try:
        with open(folder / LOG, "ab") as log:
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
    folder = Path(folder)
    start = process_start(pid)
    with exclusive(folder / SENDER_LOCK):
        try:
            deliver = load_deliver(longest_pass)  # here: it costs seconds, and MLflow may be missing
        except RunFailed as error:
            _log(str(error))
            note_failure(folder, str(error), failures=1, ended=False, gave_up=True)
            return False
        sampler = None
        if system is not None:
            sampler = Sampler(folder, system, lambda: _is_over(folder, pid, start), _log)
            sampler.start()
        try:
            done = _follow(deliver, folder, pid, start, poll, longest_pause, after_end, sampler)
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
    # A scheduler stops a job by signalling all of its processes. The training process answers by writing its last word,
    # and that is to be delivered: this process ends by itself, soon after that one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)  # training comes first
    with suppress(
        OSError, ValueError
    ):  # a server that answers without end must not take the memory that training needs
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    try:
        return 0 if follow(options.folder, options.pid, system=options.system) else 1
    except Exception:  # by itself it would be printed with the secrets in it
        _log(traceback.format_exc())
        return 1


def _follow(
    deliver: Callable[..., bool],
    folder: Path,
    pid: int,
    start: str | None,
    poll: float,
    longest_pause: float,
    after_end: float,
    sampler: Sampler | None,
) -> bool:
    seen, failures, next_try, next_samples, deadline = None, 0, 0.0, float("inf"), float("inf")
    while True:
        # In this order: a process that writes its last word and goes must not be taken for one that vanished.
        gone = start is None or not is_alive(pid, start)
        try:
            status = read_status(folder)
            own = status is not None and (status["pid"], status["host"]) == (pid, this_host())
            ended = own and last_word(status, gone) is not None
            if ended and sampler is not None:
                sampler.stop()
            delivered, changed = is_delivered(folder, vanished=gone), _signature(folder)
            complete = delivered and not samples_left(folder)
        except OSError as error:  # a file system that stumbles
            if gone:
                _log(one_line(error))
                return False
            time.sleep(poll)
            continue
        if gone and not own:
            return True  # another process goes on with the run, and has a sender of its own
        now = time.monotonic()
        if own and delivered and (complete or failures >= TRIES_FOR_SAMPLES or now > deadline):
            return True
        if ended and deadline == float("inf"):
            failures, next_try, deadline = 0, now, now + after_end
        if now > deadline:
            return False

        if now >= next_try and (changed != seen or failures or ended or now >= next_samples):
            try:
                deliver(folder, vanished=gone)
                seen, failures = changed, 0
                if sampler is not None:
                    next_samples = time.monotonic() + (SAMPLES_SOON if samples_left(folder) else SAMPLES_EVERY)
                continue
            except Exception as error:  # whatever a store may raise, the run must not notice
                _log(traceback.format_exc() if failures == 0 else one_line(error))
                failures += 1
                next_try = time.monotonic() + min(longest_pause, 2.0 ** (failures - 1))
                note_failure(folder, one_line(error), failures=failures, ended=ended)
        time.sleep(poll)


def _is_over(folder: Path, pid: int, start: str | None) -> bool:
    """Whether process `pid` is gone, or the run in its folder has had its last word."""
    return start is None or not is_alive(pid, start) or last_word(read_status(folder), vanished=False) is not None


def _log(text: str) -> None:
    """Into sender.log, which is this process's output; on a full disk it misses lines."""
    with suppress(OSError):
        print(time.strftime("%Y-%m-%d %H:%M:%S"), without_secrets(text), flush=True)


def _signature(folder: Path) -> list[tuple[int, int] | None]:
    """Changes when there is something to send."""
    files = (folder / name for name in (RECORD, STATUS, METRICS))
    return [(file.stat().st_mtime_ns, file.stat().st_size) if file.exists() else None for file in files]


if __name__ == "__main__":
    sys.exit(main())
