"""MLflow's side of delivering, kept in bounds: it may be missing or broken, and its server may answer without end."""

import importlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mcl_lab.errors import RunFailed
from mcl_lab.tracking.delivery import NOT_INSTALLED, one_line

LONGEST_PASS = 300.0  # seconds; what a pass has delivered by then stays delivered


def load_deliver(longest_pass: float = LONGEST_PASS) -> Callable[..., bool]:
    """`deliver` of mlflow/store.py, which raises TimeoutError after `longest_pass` seconds; its import takes seconds.

    Raises RunFailed, in one line, when MLflow is missing or cannot be imported.
    """
    return _load("store", "deliver", longest_pass)


def load_known_ids(longest_pass: float = LONGEST_PASS) -> Callable[[str, str], set[str]]:
    """`known_ids` of mlflow/reader.py, likewise."""
    return _load("reader", "known_ids", longest_pass)


def _load(module: str, name: str, longest_pass: float) -> Callable:
    try:
        function = getattr(importlib.import_module(f"mcl_lab.tracking.mlflow.{module}"), name)
    except ImportError as error:
        raise RunFailed(f"{NOT_INSTALLED} ({one_line(error)})") from error
    except Exception as error:  # whatever a broken package may raise
        raise RunFailed(f"MLflow cannot be imported: {one_line(error)}") from error

    def in_time(*arguments, **options):
        with _at_most(longest_pass):
            return function(*arguments, **options)

    return in_time


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the body after so long, and again should somebody swallow it; in the main thread only.

    A timeout of a request is one of each read: who answers a byte a second, for ever, keeps within it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_) -> None:
        raise TimeoutError(f"the store has not answered in full for {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
