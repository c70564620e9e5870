"""Signals as requests: a run ends in good order at the next safe place."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # Ctrl-C; kill, SLURM; SLURM's warning before a time limit


class Abandoned(BaseException):
    """Raised inside work that may be broken off; a BaseException, so that no library's `except Exception` swallows it."""


class StopRequest:
    """Within `with`, SIGINT, SIGTERM and SIGUSR2 only set `signal`; a second one of the same kind acts as it usually does.
    May be entered within itself."""

    def __init__(self):
        self.signal: int | None = None
        self._abandoning = False
        self._before = {}
        self._depth = 0

    def __enter__(self) -> "StopRequest":
        if self._depth == 0:
            self._before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
            for number in SIGNALS:
                signal.signal(number, self._handle)
        self._depth += 1
        return self

    def __exit__(self, *_) -> None:
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @property
    def name(self) -> str:
        return signal.Signals(self.signal).name

    def _handle(self, number: int, _frame) -> None:
        self.signal = number
        signal.signal(number, self._before[number])
        if self._abandoning:
            raise Abandoned

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """A body that changes nothing: a stop request breaks it off at once by raising Abandoned."""
        self._abandoning = True
        try:
            self.check()
            yield
        except RuntimeError:  # TorchScript, in some of PyTorch's derivatives, turns an Abandoned into one
            self.check()
            raise
        finally:
            self._abandoning = False

    def check(self) -> None:
        """Raise Abandoned when a stop was asked for."""
        if self.signal is not None:
            raise Abandoned

    def guard(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, raising Abandoned in between when a stop was asked for."""
        for item in items:
            self.check()
            yield item
