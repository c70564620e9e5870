"""For every test: read by OpenMP when PyTorch is imported, and inherited by the processes that tests start."""

import os
import signal

import pytest

pytest_plugins = ["journals"]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # what tests compute is too small to share out
os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as run.py does

# A shell has its background jobs ignore Ctrl-C, and nohup the hangup; what is ignored stays so, as it should.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders of long tests come first, so that in the end no process is left with one while the others have nothing to do."""
    longest = ("slurm", "end_to_end", "tracking", "launch")
    items.sort(
        key=lambda item: next((place for place, name in enumerate(longest) if name in item.path.parts), len(longest))
    )
