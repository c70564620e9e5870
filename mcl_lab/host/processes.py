"""Which process wrote a file, and whether it is still there."""

import os
import socket
from pathlib import Path


def this_host() -> str:
    """The name under which this machine signs what it writes."""
    return socket.gethostname()


def process_start(pid: int) -> str | None:
    """What tells process `pid` from another that once had its number; None when it is gone, or a zombie.

    On Linux the boot's id and the start time in clock ticks after it (field 22 of proc(5) stat); elsewhere "", which
    only says that there is such a process.
    """
    if not Path("/proc/self/stat").exists():
        return "" if _answers(pid) else None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks and brackets; fields[0] is field 3
    state, start_ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{boot}:{start_ticks}"


def search_path() -> str:
    """PYTHONPATH for a Python process that is to find this package, whatever the working directory is."""
    package_parent = str(Path(__file__).absolute().parents[2])
    return os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))


def is_alive(pid: int, start: str | None = None) -> bool:
    """Whether process `pid` runs on this host and, given `start` (by `process_start`), is still the same one."""
    now = process_start(pid)
    return now is not None and (not start or now == start)


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    return True
