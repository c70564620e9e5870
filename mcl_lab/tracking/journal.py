"""The journal: a run's own record, written into its folder by the training process and carried on by the sender.

    record.json    what the run is: identity, name, parameters, tags, where it is tracked. Written when the run begins.
    metrics.jsonl  one line an epoch: {"epoch", "step", "time_ms", "metrics": {name: value}}. A value that is not finite
                   is null, as JSON knows neither NaN nor infinity.
    status.json    how the run stands: {"state", "message", "started_ms", "ended_ms", "pid", "process_start", "host"}.

Times are milliseconds since 1970, as MLflow has them. Nothing here waits for anything but the disk.
"""

import json
import math
import os
import time
import uuid
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mcl_lab.tracking.files import read_json, write_atomically, write_json
from mcl_lab.tracking.processes import process_start, this_host
from mcl_lab.tracking.uri import stored_uri

RECORD, METRICS, STATUS = "record.json", "metrics.jsonl", "status.json"
LONGEST_LINE = 2**16  # bytes; an epoch of two peers takes about two thousand

# What is read may have been damaged, or made by somebody else: the types that others rely on, and what older files lack.
_Texts = dict[str, str]
_OF_RECORD = {
    "id": str, "run_key": str, "name": str, "uri": str | None, "experiment": str, "params": _Texts, "tags": _Texts,
    "created_ms": int, "parent": str | None,
}  # fmt: skip
_OF_STATUS = {
    "state": str, "message": str, "started_ms": int, "ended_ms": int | None, "pid": int, "process_start": str | None, "host": str,
}  # fmt: skip
_OF_EPOCH = {"epoch": int, "step": int, "time_ms": int, "metrics": dict[str, float | int | None]}
_MISSING = {"parent": None}

State = Literal["running", "submitted", "finished", "failed", "interrupted"]


class Journal:
    """The writing side of a run's record, for the one process that holds the run's lock."""

    def __init__(self, folder: Path | str):
        """`folder` exists and is the run's."""
        self.folder = Path(folder)
        self._started_ms: int | None = None

    def begin(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write record.json and return it.

        `record` holds `run_key`, `name`, `uri` (None: not tracked), `experiment`, `params` and `tags` (of str to str), and
        if need be `parent`, the folder of the sweep that the run belongs to.
        A folder that has a record keeps its `id` and `created_ms`: a resumed run is the same run, even when it is
        tracked elsewhere from now on. The URI is stored by its absolute path and without user and password.

        Raises InputError("tracking.uri") for a URI that MLflow has no store for.
        """
        old = read_record(self.folder)
        new = {
            "id": old["id"] if old else uuid.uuid4().hex,
            "parent": None,
            **record,
            "uri": None if record["uri"] is None else stored_uri(record["uri"]),
            "created_ms": old["created_ms"] if old else _now_ms(),
        }
        if new != old:
            write_json(self.folder / RECORD, new)
        return new

    def restore(self, epochs: list[dict[str, Any]]) -> None:
        """Make metrics.jsonl exactly these epochs' lines, as a checkpoint remembers them.

        This also repairs what a crash left: an epoch the checkpoint does not know, or half a line.
        """
        path = self.folder / METRICS
        text = "".join(map(_line, epochs))
        if (path.read_text(encoding="utf-8", errors="replace") if path.exists() else "") != text:
            write_atomically(path, text)

    def append(self, epoch: dict[str, Any]) -> None:
        """Add one epoch's line; it is on the disk when this returns."""
        with open(self.folder / METRICS, "ab") as file:
            file.write(_line(epoch).encode())
            file.flush()
            os.fsync(file.fileno())

    def status(self, state: State, message: str = "") -> None:
        """Write how the run stands, signed by this process.

        "running" comes first and before `start_sender`; "finished" comes after result.json, as the sender then takes
        everything to be there. "submitted" is the last word of a launcher that has handed its sweep's runs to a
        scheduler: not an end, but no process stands for the record any more. Whoever sees the sweep end writes its end,
        by a journal of its own; several may do so at the same moment.
        """
        now = _now_ms()
        begun_here = state == "running" or self._started_ms is not None
        if state == "running" or self._started_ms is None:
            self._started_ms = now
        status = {
            "state": state,
            "message": message,
            "started_ms": self._started_ms,
            "ended_ms": None if state in ("running", "submitted") else now,
            "pid": os.getpid(),
            "process_start": process_start(os.getpid()),
            "host": this_host(),
        }
        write_json(self.folder / STATUS, status, shared=not begun_here)


def read_record(folder: Path | str) -> dict[str, Any] | None:
    """record.json of a run folder; None when there is none, or one that no run wrote."""
    return _sound(read_json(Path(folder) / RECORD), _OF_RECORD)


def read_status(folder: Path | str) -> dict[str, Any] | None:
    """status.json of a run folder; None when there is none, or one that no run wrote."""
    return _sound(read_json(Path(folder) / STATUS), _OF_STATUS)


def is_finished(folder: Path | str) -> bool:
    """Whether all is written. A run that was killed between its result and its last word goes on, to the same result."""
    status = read_status(folder)
    return status is not None and status["state"] == "finished" and (Path(folder) / "result.json").exists()


def read_epochs(folder: Path | str) -> list[dict[str, Any]]:
    """The epochs in metrics.jsonl, in order, without a line still being written, or left half by a crash, or that no run wrote."""
    try:
        text = (Path(folder) / METRICS).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    complete = text[: text.rfind("\n") + 1]
    return [epoch for line in complete.splitlines() if line and (epoch := _epoch(line))]


def read_last_epoch(folder: Path | str) -> dict[str, Any] | None:
    """The last of `read_epochs`, without reading them all; None when there is none."""
    try:
        with open(Path(folder) / METRICS, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return None
    complete = text[: text.rfind("\n") + 1].splitlines()
    return _epoch(complete[-1]) if complete else None


def _epoch(line: str) -> dict[str, Any] | None:
    try:
        return _sound(json.loads(line), _OF_EPOCH)
    except (ValueError, RecursionError):
        return None


def _sound(value: Any, types: dict[str, Any]) -> dict[str, Any] | None:
    """A JSON object with values of these types at least; None for anything else."""
    if not isinstance(value, dict):
        return None
    value = {name: default for name, default in _MISSING.items() if name in types} | value
    return value if all(name in value and _is_of(value[name], kind) for name, kind in types.items()) else None


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(isinstance(item, get_args(kind)[1]) for item in value.values())
    return isinstance(value, kind)


def _line(epoch: dict[str, Any]) -> str:
    metrics = {name: _finite(value) for name, value in epoch["metrics"].items()}
    return json.dumps({**epoch, "metrics": metrics}, allow_nan=False) + "\n"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
