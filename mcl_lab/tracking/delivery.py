"""What the sender remembers in a run folder (delivery.json), and what others may ask of it without MLflow."""

import shlex
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mcl_lab.host.files import exclusive, has_types, read_json, write_json
from mcl_lab.host.secrets import without_secrets
from mcl_lab.runs.journal import KIND_TAG, SWEEP_TAG, last_word, read_record, read_status, started_ms
from mcl_lab.runs.layout import RecordFolder

NOT_INSTALLED = "MLflow is not installed: pip install mlflow"
POLL = 0.1  # seconds between two looks while waiting for the sender
ERROR_LENGTH = 300  # characters of a store's error that are kept

_TYPES: dict[str, Any] = dict.fromkeys(("experiment_id", "mlflow_run", "state", "parent"), str | None)
_TYPES |= {"last_epoch": int, "samples": int, "artifacts": list, "started_ms": int | None, "error": dict | None}
_ERROR_TYPES = {"message": str, "failures": int, "ended": bool, "gave_up": bool}


def read_delivery(folder: Path | str, record: dict[str, Any]) -> dict[str, Any]:
    """What has been delivered of `record` to the store it names; a fresh memory when nothing has, or only elsewhere.

    `experiment_id` and `mlflow_run` are MLflow's ids; `last_epoch` is the last epoch sent, `samples` the last line of
    system.jsonl; `state` and `started_ms` are those of the status that was delivered with all that belongs to it, but for
    samples, `parent` is the record's then; `error` is the last try's, None after a good one.
    """
    fresh: dict[str, Any] = {
        "id": record["id"],
        "uri": record["uri"],
        "experiment": record["experiment"],
        "experiment_id": None,
        "mlflow_run": None,
        "last_epoch": 0,
        "samples": 0,
        "artifacts": [],
        "state": None,
        "started_ms": None,
        "parent": None,
        "error": None,
    }
    stored = read_json(RecordFolder(folder).delivery)
    if stored is None or any(stored.get(key) != fresh[key] for key in ("id", "uri", "experiment")):
        return fresh
    delivery = fresh | stored
    whole = has_types(delivery, _TYPES) and (delivery["error"] is None or has_types(delivery["error"], _ERROR_TYPES))
    return delivery if whole else fresh  # to send all again changes nothing


def write_delivery(folder: Path | str, delivery: dict[str, Any]) -> None:
    """Remember; for the holder of the sender's lock."""
    write_json(RecordFolder(folder).delivery, delivery)


def note_failure(folder: Path | str, message: str, *, failures: int, ended: bool, gave_up: bool = False) -> None:
    """Remember a failed try; for the holder of the sender's lock.

    `failures` in a row, since the run's end when it has `ended`; `gave_up`: nobody tries again by itself. Where the disk is
    what failed, nothing is remembered.
    """
    with suppress(OSError):
        record = read_record(folder)
        if record is not None:
            error = {"message": message, "failures": failures, "ended": ended, "gave_up": gave_up}
            write_delivery(folder, read_delivery(folder, record) | {"error": error})


def one_line(error: Exception) -> str:
    """A store's error, for people: its first line, not too long, and no password in it. What it was caused by stands last."""
    first = (str(error).splitlines() or [""])[0]
    line = without_secrets(f"{type(error).__name__}: {first}")
    return line if len(line) <= ERROR_LENGTH else f"{line[: ERROR_LENGTH - 125]} ... {line[-120:]}"


def is_delivered(folder: Path | str, *, vanished: bool = False) -> bool:
    """Whether the store has all of a run that has had its last word; `vanished`: its process left none, that is its end.

    True as well for a run without a record, or one that is not tracked: there is nothing to deliver.
    """
    record, status = read_record(folder), read_status(folder)
    if record is None or record["uri"] is None:
        return True
    state = last_word(status, vanished)
    delivery = read_delivery(folder, record)
    delivered = (delivery["state"], delivery["started_ms"], delivery["parent"])
    return state is not None and delivered == (state, started_ms(status), record["parent"])


def wait_delivered(folder: Path | str, seconds: float) -> bool:
    """Wait at most `seconds` until the store has all of a run that has had its last word; False when it has not.

    Returns early when the sender gave up or has failed twice since the run's end: it goes on trying by itself, and
    nobody need wait for that. `delivery_error` then says why.
    """
    deadline = time.monotonic() + seconds
    while not is_delivered(folder):
        error = _error(folder)
        hopeless = error is not None and (error["gave_up"] or (error["ended"] and error["failures"] >= 2))
        if hopeless or time.monotonic() >= deadline:
            return False
        time.sleep(POLL)
    return True


def wait_sender(folder: Path | str, seconds: float) -> bool:
    """Wait at most `seconds` until no sender is at work in a run folder; False when one still is.

    To be called after `wait_delivered`. The sender then sees to what other runs of the sweep left undelivered, as long
    as it lives: a scheduler that ends a job ends it too.
    """
    deadline = time.monotonic() + seconds
    while True:
        with exclusive(RecordFolder(folder).sender_lock, wait=False) as free:
            if free:
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL)


def delivery_error(folder: Path | str) -> str | None:
    """One line on why the last try to deliver failed; None when it did not."""
    error = _error(folder)
    return None if error is None else error["message"]


def ui_hint(folder: Path | str) -> tuple[str, str] | None:
    """(command that opens the MLflow UI, or the server's address; address of the experiment's runs within the UI).

    None for a run of which nothing has been delivered. The address leads straight to the table of runs with their charts,
    past the overview that MLflow opens by itself; for a sweep, and a run in one, to the runs of the sweep.
    """
    record = read_record(folder)
    if record is None or record["uri"] is None:
        return None
    experiment_id = read_delivery(folder, record)["experiment_id"]
    if experiment_id is None:
        return None
    uri = record["uri"]
    command = uri if uri.startswith(("http:", "https:")) else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    return (
        command,
        f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART{_only(record)}",
    )


def _only(record: dict[str, Any]) -> str:
    """For an address of MLflow's: a sweep's runs alone. Sorted by name, as by time MLflow would hide them below the sweep's."""
    sweep = record if record["tags"].get(KIND_TAG) == "sweep" else record["parent"] and read_record(record["parent"])
    name = sweep["name"] if sweep else ""
    if not name or '"' in name:
        return ""
    order, wanted = quote("tags.`mlflow.runName`"), quote(f'tags.{SWEEP_TAG} = "{name}"')
    return f"&orderByKey={order}&orderByAsc=true&searchFilter={wanted}"


def _error(folder: Path | str) -> dict[str, Any] | None:
    record = read_record(folder)
    return None if record is None else read_delivery(folder, record)["error"]
