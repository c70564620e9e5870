"""One process a run folder: a lock that outlives no crash and follows a run from machine to machine."""

import json
import os
import sys
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mcl_lab.errors import RunFailed
from mcl_lab.host.files import alone_in, has_types
from mcl_lab.host.processes import Life, ProcessId
from mcl_lab.runs.layout import RunFolder

HEARTBEAT = 10.0  # seconds between two beats of a lock that is held
STALE_AFTER = 60.0  # seconds without a beat after which its holder counts as dead

_HOLDER_TYPES = {"host": str, "pid": int, "process_start": str, "slurm": list | None}

# Together they name a task that SLURM may stop on one machine and start again on another.
SLURM_TASK = ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_STEP_ID", "SLURM_PROCID")


class RunLock:
    """Context manager that holds a run folder for this process.

    A lock left behind is taken over: at once on its own host when its process is gone, at once by the same SLURM task
    on another host (it was requeued), and by others once its heartbeat, the file's modification time, is `stale_after`
    seconds old; until then they wait and say so in one line on stderr.

    Raises RunFailed when a living process of this host holds the folder.
    """

    def __init__(self, folder: Path | str, *, heartbeat: float = HEARTBEAT, stale_after: float = STALE_AFTER):
        self.path = RunFolder(folder).lock
        self.heartbeat = heartbeat
        self.stale_after = stale_after
        self._owner = _identity()
        self._end = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._beat, name="run lock heartbeat", daemon=True)

    def __enter__(self) -> "RunLock":
        waiting = False
        while (holder := self._take()) is not None:
            if not waiting:
                print(_waiting_line(self.path.parent, holder, self.stale_after), file=sys.stderr, flush=True)
                waiting = True
            time.sleep(min(1.0, self.stale_after / 10))
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
        with suppress(OSError):  # where nothing can be deleted, a lock whose process is gone does no harm
            self._release()

    def check(self) -> None:
        """Raise RunFailed when another process has taken the folder over, as it may once this one slept too long."""
        if self._lost:
            raise RunFailed(f"{self.path.parent}: another process took this run over while this one stood still")

    def _take(self) -> dict[str, Any] | None:
        """Make the lock ours and return None, or return its holder, to be waited for."""
        with alone_in(self.path) as file:
            holder = _parse(file.read())
            if holder is not None and not self._may_replace(holder):
                return holder
            # In place and only then cut: whoever reads meanwhile finds some owner's whole line first.
            file.seek(0)
            file.write(json.dumps(self._owner) + "\n")
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
            os.utime(self.path)
        return None

    def _may_replace(self, holder: dict[str, Any]) -> bool:
        life = ProcessId.read(holder).life()
        if life is Life.ALIVE:
            raise RunFailed(
                f"{self.path.parent}: process {holder['pid']} on {holder['host']} is training this run; "
                "wait for it, stop it, or pick another folder with hydra.run.dir=FOLDER"
            )
        if life is Life.GONE:
            return True
        same_task = holder["slurm"] is not None and holder["slurm"] == self._owner["slurm"]
        return same_task or heartbeat_age(self.path.parent) >= self.stale_after

    def _beat(self) -> None:
        while not self._end.wait(self.heartbeat):
            try:
                if holder_of(self.path.parent) != self._owner:
                    self._lost = True
                    return
                os.utime(self.path)
            except FileNotFoundError:  # between the two
                self._lost = True
                return
            except OSError:  # a file system that stumbled; the next beat may get through
                continue

    def _release(self) -> None:
        if not self.path.exists():
            return
        with alone_in(self.path) as file:
            if _parse(file.read()) == self._owner:
                self.path.unlink()


def heartbeat_age(folder: Path | str) -> float:
    """Seconds since the lock of a run folder last beat; infinite when nobody holds it.

    Measured against a file written now into the same folder: on a shared file system the server's clock sets both
    times, and this machine's may be minutes off. A beat to come, by a clock that was set back since, is as old as it is far.
    """
    try:
        beat = RunFolder(folder).lock.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now.") as now:
        return abs(os.stat(now.name).st_mtime - beat)


def is_held(folder: Path | str) -> bool:
    """Whether a living process holds the run folder: it runs on this host, or has beaten lately on another."""
    holder = holder_of(folder)
    if holder is None:
        return False
    life = ProcessId.read(holder).life()
    return life is Life.ALIVE or life is Life.UNKNOWN and heartbeat_age(folder) < STALE_AFTER


def holder_of(folder: Path | str) -> dict[str, Any] | None:
    """What the lock of a run folder says of its holder: `host`, `pid`, `process_start` and `slurm`; None without one."""
    try:
        return _parse(RunFolder(folder).lock.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None


def _identity() -> dict[str, Any]:
    return {
        **ProcessId.this().fields(),
        "slurm": [os.environ.get(name) for name in SLURM_TASK] if "SLURM_JOB_ID" in os.environ else None,
        "token": uuid.uuid4().hex,
    }


def _parse(text: str) -> dict[str, Any] | None:
    """The owner written in a lock file; None for a new file, one whose owner died writing it, or a damaged one."""
    try:
        holder = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return holder if isinstance(holder, dict) and has_types(holder, _HOLDER_TYPES) else None


def _waiting_line(folder: Path, holder: dict[str, Any], stale_after: float) -> str:
    return (
        f"{folder}: process {holder['pid']} on {holder['host']} holds this run; "
        f"waiting until it ends or gives no sign of life for {stale_after:.0f} s"
    )
