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
import uuid
from pathlib import Path
from typing import Any, Literal, get_args

from mcl_lab.host.clock import now_ms
from mcl_lab.host.files import has_types, read_json, write_atomically, write_json
from mcl_lab.host.processes import ProcessId
from mcl_lab.host.secrets import without_secrets
from mcl_lab.host.uri import stored_uri
from mcl_lab.runs.layout import RecordFolder, RunFolder

KIND_TAG = "mcl_lab.kind"  # of what is no run to report: `sweep`, a whole one; `reproduction`, a run trained again
SWEEP_TAG = "sweep"  # the name of the sweep that a run is a child of
CLOCK = ("train/seconds", "train/images_per_second", "train/evaluation_seconds")  # metrics that no two trainings share
LONGEST_LINE = 2**16  # bytes; an epoch of two peers takes about two thousand

State = Literal["running", "submitted", "finished", "failed", "interrupted"]

_RECORD_TYPES: dict[str, Any] = {
    **dict.fromkeys(("id", "name", "run_key", "experiment"), str),
    **{"params": dict[str, str], "tags": dict[str, str], "uri": str | None, "parent": str | None, "created_ms": int},
}
_STATUS_TYPES: dict[str, Any] = {
    **{"state": str, "message": str, "started_ms": int, "ended_ms": int | None},
    **{"pid": int, "process_start": str | None, "host": str},
}
_EPOCH_TYPES: dict[str, Any] = {"epoch": int, "step": int, "time_ms": int, "metrics": dict[str, int | float | None]}


class Damaged(Exception):
    """A file of the journal is there and cannot be read; the message names it."""


class Journal:
    """The writing side of a run's record, for the one process that holds the run's lock."""

    def __init__(self, folder: Path | str):
        """`folder` exists and is the run's."""
        self.files = RecordFolder(folder)
        self.folder = self.files.path
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
        delivered = (read_json(self.files.delivery) or {}).get("id")  # of a record that something damaged
        known = old["id"] if old else delivered if isinstance(delivered, str) else None
        new = {
            "id": known or uuid.uuid4().hex,
            "parent": None,
            **record,
            "uri": None if record["uri"] is None else stored_uri(record["uri"]),
            "created_ms": old["created_ms"] if old else now_ms(),
        }
        if new != old:
            write_json(self.files.record, new)
        return new

    def restore(self, epochs: list[dict[str, Any]]) -> None:
        """Make metrics.jsonl exactly these epochs' lines, as a checkpoint remembers them.

        This also repairs what a crash left: an epoch the checkpoint does not know, or half a line.
        """
        path = self.files.epochs
        text = "".join(map(_line, epochs))
        if (path.read_text(encoding="utf-8", errors="replace") if path.exists() else "") != text:
            write_atomically(path, text)

    def append(self, epoch: dict[str, Any]) -> None:
        """Add one epoch's line; it is on the disk when this returns."""
        with open(self.files.epochs, "ab") as file:
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
        now = now_ms()
        begun_here = state == "running" or self._started_ms is not None
        if state == "running" or self._started_ms is None:
            self._started_ms = now
        status = {
            "state": state,
            "message": without_secrets(message),
            "started_ms": self._started_ms,
            "ended_ms": None if state in ("running", "submitted") else now,
            **ProcessId.this().fields(),
        }
        write_json(self.files.status, status, shared=not begun_here)


def read_record(folder: Path | str) -> dict[str, Any] | None:
    """record.json of a run folder; None when there is none, or it is damaged."""
    record = {"parent": None} | (read_json(RecordFolder(folder).record) or {})  # older ones have no parent
    return record if has_types(record, _RECORD_TYPES) else None


def read_status(folder: Path | str) -> dict[str, Any] | None:
    """status.json of a run folder; None when there is none, or it is damaged."""
    status = read_json(RecordFolder(folder).status) or {}
    return status if has_types(status, _STATUS_TYPES) and status["state"] in get_args(State) else None


def is_finished(folder: Path | str) -> bool:
    """Whether all is written. A run that was killed between its result and its last word goes on, to the same result."""
    status = read_status(folder)
    return status is not None and status["state"] == "finished" and RunFolder(folder).result.exists()


def end_state(status: dict[str, Any] | None, vanished: bool) -> str | None:
    """How a run ended: finished, failed, interrupted or vanished; None while it runs, or has yet to say so.

    None as well for a sweep that was submitted: nobody's process stands for it, so that none can vanish.
    """
    state = last_word(status, vanished)
    return None if state == "submitted" else state


def last_word(status: dict[str, Any] | None, vanished: bool) -> str | None:
    """What the process that wrote `status` leaves behind, its `end_state` or submitted; None while it may say more."""
    if status is None or status["state"] == "running":
        return "vanished" if vanished else None
    return status["state"]


def started_ms(status: dict[str, Any] | None) -> int | None:
    """What tells one attempt at a run from the next; None when it died before its first word."""
    return None if status is None else status["started_ms"]


def read_epochs(folder: Path | str, *, skip_damaged: bool = False) -> list[dict[str, Any]]:
    """The epochs in metrics.jsonl, in order, without a line still being written, or left half by a crash.

    Raises Damaged for any other line that is no epoch, unless those are to be skipped. A run that goes on mends them.
    """
    try:
        text = RecordFolder(folder).epochs.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = [line for line in text[: text.rfind("\n") + 1].splitlines() if line]
    epochs = list(map(_epoch, lines))
    if None in epochs and not skip_damaged:
        raise Damaged(f"{RecordFolder.epochs.name}, line {epochs.index(None) + 1}")
    return [epoch for epoch in epochs if epoch is not None]


def read_last_epoch(folder: Path | str) -> dict[str, Any] | None:
    """The last epoch in metrics.jsonl that is whole, without reading them all; None when there is none."""
    try:
        with open(RecordFolder(folder).epochs, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return None
    lines = text[: text.rfind("\n") + 1].splitlines()
    return next((epoch for line in reversed(lines) if (epoch := _epoch(line)) is not None), None)


def _epoch(line: str) -> dict[str, Any] | None:
    """The epoch in a line of metrics.jsonl; None for a damaged one."""
    try:
        epoch = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if "\ufffd" in line or not isinstance(epoch, dict) or not has_types(epoch, _EPOCH_TYPES):  # bytes that are no UTF-8
        return None
    return epoch


def _line(epoch: dict[str, Any]) -> str:
    metrics = {name: _finite(value) for name, value in epoch["metrics"].items()}
    return json.dumps({**epoch, "metrics": metrics}, allow_nan=False) + "\n"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
