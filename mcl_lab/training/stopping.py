"""Signals as requests: a run ends in good order at the next safe place."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # Ctrl-C; kill, SLURM; SLURM's warning before a time limit


class Abandoned(BaseException):
    """Raised inside work that may be broken off; a BaseException, so that no library's `except Exception` swallows it."""

    def __init__(self, asked_by: signal.Signals):
        super().__init__(asked_by.name)
        self.signal = asked_by


class StopRequest:
    """Within `with`, SIGINT, SIGTERM and SIGUSR2 only set `signal`; a second one of the same kind acts as it usually does.
    May be entered within itself."""

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._abandoning = False
        self._before: dict[signal.Signals, Any] = {}
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

    def _handle(self, number: int, _frame) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._before[self.signal])
        if self._abandoning:
            raise Abandoned(self.signal)

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
            raise Abandoned(self.signal)

    def guard(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, raising Abandoned in between when a stop was asked for."""
        for item in items:
            self.check()
            yield item
