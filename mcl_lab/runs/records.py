"""Runs as they are recorded, read back: the same from run folders and, in tracking/mlflow/reader.py, from MLflow."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mcl_lab.host.processes import ProcessId
from mcl_lab.runs.journal import KIND_TAG, end_state, read_epochs, read_last_epoch, read_record, read_status
from mcl_lab.runs.layout import RecordFolder
from mcl_lab.runs.lock import is_held
from mcl_lab.runs.result import FINAL, read_result


class RecordedRun(NamedTuple):
    id: str
    name: str
    run_key: str
    params: dict[str, str]
    tags: dict[str, str]
    state: str  # running, finished, failed, interrupted, vanished
    message: str  # what its end had to say
    created_ms: int
    epochs: int | None  # recorded so far; None of a finished run
    final: dict[str, float]  # `<peer>/<metric>` to a value; empty unless it is finished
    place: str  # its folder, or MLflow's id


class StoreUnavailable(Exception):
    """There is no store to read from, or it does not answer; the message says which, in one line."""


class RunFolders:
    """The run folders in a folder, at any depth, or where the pattern `below` finds their records."""

    def __init__(self, root: Path | str, *, below: str = f"**/{RecordFolder.record.name}"):
        self.root, self.below = Path(root), below

    def __str__(self) -> str:
        return f"the run folders in {self.root}"

    def runs(self) -> list[RecordedRun]:
        """All of them, by the path of their folder; a damaged record is passed over."""
        found = (_read(path.parent) for path in sorted(self.root.glob(self.below)))
        return [run for run in found if run is not None]

    def epochs(self, place: str, wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
        """A run's epochs, in order, with the metrics whose names are wanted."""
        return [
            {**epoch, "metrics": {name: value for name, value in epoch["metrics"].items() if wanted(name)}}
            for epoch in read_epochs(place, skip_damaged=True)
        ]


def is_running(folder: Path) -> bool:
    """Whether a living process trains the run in this folder."""
    status = read_status(folder)
    if status is not None:
        if status["state"] != "running":
            return False
        if ProcessId.read(status).is_alive():
            return True
    # The lock tells of a process on its way to its first word, whatever an earlier one left, and of one on another host.
    return is_held(folder)


def _read(folder: Path) -> RecordedRun | None:
    record, status = read_record(folder), read_status(folder)
    if record is None or KIND_TAG in record["tags"]:
        return None
    state, message = end_state(status, vanished=not is_running(folder)) or "running", (status or {}).get("message", "")
    final: dict[str, float] = {}
    if state == "finished":
        result = read_result(folder)
        if result is not None and "final" in result:
            final = final_metrics_in(result["final"])
        else:
            state, message = "failed", "result.json is missing or damaged"
    last = read_last_epoch(folder)
    return RecordedRun(
        id=record["id"],
        name=record["name"],
        run_key=record["run_key"],
        params=record["params"],
        tags=record["tags"],
        state=state,
        message=message,
        created_ms=record["created_ms"],
        epochs=None if state == "finished" else last["epoch"] if last else 0,
        final=final,
        place=str(folder),
    )


def final_metrics_in(metrics: Mapping[str, float]) -> dict[str, float]:
    """The final ones of a run's metrics, as `<peer>/<metric>`."""
    return {name.removeprefix(FINAL): value for name, value in metrics.items() if name.startswith(FINAL)}
