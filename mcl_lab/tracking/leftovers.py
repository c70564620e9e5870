"""What other runs of a sweep have left undelivered: their sender was killed with its job, or the store was away."""

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mcl_lab.host.files import exclusive, read_json
from mcl_lab.host.processes import Life, ProcessId
from mcl_lab.runs.journal import last_word, read_record, read_status, started_ms
from mcl_lab.runs.layout import RecordFolder
from mcl_lab.runs.records import is_running
from mcl_lab.tracking.delivery import is_delivered


def deliver_left_behind(deliver: Callable[..., bool], folder: Path, *, seconds: float) -> None:
    """Deliver the sweep's own record and those of its runs beside `folder` that have ended and that no sender carries.

    For the holder of the sender's lock of `folder`, a run that is delivered itself; as soon as it goes on, this ends,
    and after `seconds` too. Runs of other sweeps, alone, or recorded elsewhere are left alone. Raises the first thing
    that a store raises: one that fails now is not asked once more for each run.
    """
    deadline = time.monotonic() + seconds
    for other in _undelivered(folder):
        if time.monotonic() > deadline or not is_delivered(folder, vanished=True):
            return
        with exclusive(RecordFolder(other).sender_lock, wait=False) as alone:
            # Only now, as the one who may have held the lock until a moment ago has changed what is asked here.
            if alone and not is_running(other) and not is_delivered(other, vanished=True):
                deliver(other, vanished=True)


def _undelivered(folder: Path) -> Iterator[Path]:
    """Folders that may be left behind, of perhaps a thousand on a slow file system; of most, two small files are read."""
    own = read_record(folder)
    if own is None or own["uri"] is None or own["parent"] is None:
        return
    sweep = Path(own["parent"])
    if not _is_settled(sweep) and not _may_be_launched_elsewhere(sweep):
        record = read_record(sweep)
        if record and _same_store(record, own):
            yield sweep
    with os.scandir(folder.parent) as entries:
        others = [Path(entry.path) for entry in entries if entry.is_dir() and entry.name != folder.name]
    random.shuffle(others)  # so that many senders share them out, and none stands in the way of the rest for ever
    for other in others:
        if not _is_settled(other):
            record = read_record(other)
            if record and _same_store(record, own) and record["parent"] == own["parent"]:
                yield other


def _is_settled(folder: Path) -> bool:
    """Whether the last word is delivered, by a look at less than `is_delivered` reads."""
    delivery = read_json(RecordFolder(folder).delivery)
    if delivery is None or delivery.get("state") is None:
        return False
    status = read_status(folder)
    return (delivery["state"], delivery.get("started_ms")) == (last_word(status, vanished=True), started_ms(status))


def _same_store(record: dict[str, Any], own: dict[str, Any]) -> bool:
    return all(record.get(key) == own[key] for key in ("uri", "experiment"))


def _may_be_launched_elsewhere(sweep: Path) -> bool:
    """A launcher has no heartbeat by which another host could tell that it is gone."""
    status = read_status(sweep)
    return status is None or (status["state"] == "running" and ProcessId.read(status).life() is Life.UNKNOWN)
