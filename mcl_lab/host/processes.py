"""Which process wrote a file, and whether it is still there."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypedDict


class Life(Enum):
    """What can be said of a process from here."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"  # it is another host's, where nobody here can look


class StoredProcess(TypedDict):
    """The fields by which files name a process."""

    pid: int
    process_start: str | None
    host: str


@dataclass(frozen=True)
class ProcessId:
    """One process for ever: a number alone may belong to another process tomorrow.

    start: on Linux the boot's id and the start time in clock ticks after it; elsewhere "", which only says that there was
    such a process. None of one that was gone, or a zombie, when it was asked for.
    """

    pid: int
    start: str | None
    host: str

    @classmethod
    def this(cls) -> "ProcessId":
        """The process that asks."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """Process number `pid` of this host, as it is now."""
        return cls(pid, _start_of(pid), this_host())

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> "ProcessId":
        """The process that a file names, by its fields `pid`, `process_start` and `host`; what else there is does not matter."""
        return cls(fields["pid"], fields["process_start"], fields["host"])

    def fields(self) -> StoredProcess:
        """The same, to be written."""
        return {"pid": self.pid, "process_start": self.start, "host": self.host}

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this host."""
        return self.host == this_host()

    def life(self) -> Life:
        """What can be said of it now."""
        if not self.is_here:
            return Life.UNKNOWN
        now = _start_of(self.pid)
        return Life.GONE if now is None or self.start is None or self.start not in ("", now) else Life.ALIVE

    def is_alive(self) -> bool:
        """Whether it is known to go on: False for a process of another host."""
        return self.life() is Life.ALIVE


def this_host() -> str:
    """The name under which this machine signs what it writes."""
    return socket.gethostname()


def _start_of(pid: int) -> str | None:
    """What tells process `pid` from another that once had its number; None when it is gone, or a zombie.

    Field 22 of proc(5) stat, after the boot's id; "" where there is no such file.
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


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    return True
