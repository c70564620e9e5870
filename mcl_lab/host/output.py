"""Standard output may go away: the reader of a pipe ends, a terminal is closed, the disk of a file is full."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

from mcl_lab.host.text import print_anywhere

NOBODY_READS = {errno.EPIPE, errno.EIO}  # a pipe that was closed; a terminal


class Output:
    """A text stream that drops all that follows a write which fails: whoever prints goes on. `error` then says why."""

    def __init__(self, stream: TextIO):
        self.error: OSError | None = None
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def _try(self, act) -> None:
        try:
            act()
        except OSError as error:
            self.error = self.error or error
            with suppress(OSError):  # what is in the stream's memory still has to go somewhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def lasting_output() -> Iterator[None]:
    """Within it printing fails for no text and no encoding. Streams that were closed from the start lead nowhere."""
    print_anywhere()
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:  # or a file gets such a number, and what is printed there
        pass
    os.close(spare)
    before = sys.stdout, sys.stderr
    lasting = [Output(stream or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")) for stream in before]
    sys.stdout, sys.stderr = (cast(TextIO, output) for output in lasting)
    try:
        yield
    finally:
        for output in lasting:
            output.flush()
        sys.stdout, sys.stderr = before


def is_lost() -> bool:
    """Whether what is printed reaches nobody any more."""
    return getattr(sys.stdout, "error", None) is not None


def missing_because() -> str | None:
    """Why a file has not all that was printed; None when it has, or nobody wanted the rest."""
    sys.stdout.flush()
    error = getattr(sys.stdout, "error", None)
    return None if error is None or error.errno in NOBODY_READS else error.strerror or str(error)


@contextmanager
def unattended() -> Iterator[None]:
    """For work that the screen only shows, and that leaves its results elsewhere: a terminal may hang up, and what is missing of
    what was printed is no more than said."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
        if reason := missing_because():
            from mcl_lab.host.screen import say  # not at once: rich takes a moment, which every command would wait for

            say(f"what was printed is not whole: {reason}")
            cast(Output, sys.stdout).error = None
