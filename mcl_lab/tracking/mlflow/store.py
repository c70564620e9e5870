"""Carries a run's record to MLflow.

Every pass may die at any point and be done again, by this process or another, without anything being there twice: the
MLflow run is looked up by its tag, parameters and tags are compared, metrics carry the journal's own step and time
stamp (MLflow keeps equal points once), artifacts replace themselves.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID

from mcl_lab.host.files import exclusive
from mcl_lab.host.uri import connectable_uri, sqlite_file
from mcl_lab.runs.journal import (
    SWEEP_TAG,
    Damaged,
    last_word,
    read_epochs,
    read_record,
    read_status,
    started_ms,
)
from mcl_lab.runs.layout import RecordFolder, RunFolder, SweepFolder
from mcl_lab.runs.result import read_result
from mcl_lab.tracking.delivery import is_delivered, read_delivery, write_delivery
from mcl_lab.tracking.mlflow import configure
from mcl_lab.tracking.moved import FOLDER, lost_artifacts
from mcl_lab.tracking.system import Point, carry_samples

ID_TAG, KEY_TAG, STATE_TAG = "mcl_lab.id", "mcl_lab.run_key", "mcl_lab.state"
ARTIFACTS = (
    *(RunFolder.config, RunFolder.result, RunFolder.log, SweepFolder.ledger, SweepFolder.table),
    *(RunFolder.changes, RunFolder.later_changes),
)
SAMPLES_FIRST = 2.0  # seconds that an epoch or the end of a run may wait for them; all but a few are there as a rule
MLFLOW_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "vanished": "FAILED"}

for _chatty in ("mlflow", "alembic"):  # once they are imported, which sets it too
    logging.getLogger(_chatty).setLevel(logging.ERROR)


def deliver(folder: Path | str, *, vanished: bool = False) -> bool:
    """One pass: send what the run folder holds and its store has not; True when it is there whole, with its last word.

    For the holder of the sender's lock. `vanished`: the process is gone without a last word, so that a status "running"
    means the MLflow run has FAILED; it is RUNNING again when the run is resumed. What was submitted is RUNNING.

    Raises what MLflow raises.
    """
    folder = Path(folder)
    record = read_record(folder)
    if record is None or record["uri"] is None:
        return True
    configure()
    status = read_status(folder)  # before the journal: when it says the end, the journal is complete
    if status is None and RecordFolder(folder).status.exists():
        raise Damaged(RecordFolder.status.name)
    delivery = read_delivery(folder, record)

    client, experiment_id = _connect(record["uri"], record["experiment"])
    run = _find_or_create_run(client, experiment_id, folder, record, delivery["mlflow_run"])
    if run.info.run_id != delivery["mlflow_run"]:  # a new one, or somebody deleted the one we knew
        delivery |= {"last_epoch": 0, "samples": 0, "artifacts": [], "state": None, "started_ms": None}
    delivery |= {"experiment_id": experiment_id, "mlflow_run": run.info.run_id}

    _send_description(client, run, record)
    _send_data(client, run, record)
    _send_parent(client, experiment_id, run, record)
    try:
        for epoch in _send_epochs(client, run, folder, after=delivery["last_epoch"]):
            delivery["last_epoch"] = epoch
    finally:
        write_delivery(folder, delivery)  # a server that fails now and then gets on all the same

    state = last_word(status, vanished)
    if state in (None, "submitted"):
        _reopen(client, run, state or "running")
    if state is None:
        delivery["error"] = None
        write_delivery(folder, delivery)
        _send_samples(client, run, folder, delivery, seconds=SAMPLES_FIRST)
        return False
    final = _send_final_metrics(client, run, folder, status) if status and state == "finished" else {}
    if state in MLFLOW_STATUS:
        _send_end(client, run, folder, status, state)
        _check_taken(client, run, folder, record, MLFLOW_STATUS[state], final)
    delivery["artifacts"] = _send_artifacts(client, run, folder)  # last: a server may have no place for them
    if delivery["error"] is None:  # else they may be what failed, or many: the end is not kept waiting for them
        with suppress(MlflowException):  # they are tried again below, when the rest is noted
            _send_samples(client, run, folder, delivery, seconds=SAMPLES_FIRST)
    delivery |= {"state": state, "started_ms": started_ms(status), "parent": record["parent"]}
    delivery["error"] = None  # only now: until then it is what people are told
    write_delivery(folder, delivery)
    _send_samples(client, run, folder, delivery)
    return is_delivered(folder, vanished=vanished)


def _connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment, which is made when it is not there."""
    # Processes that open a new SQLite file together trip over each other's schema: one at a time until all is in place.
    database = sqlite_file(uri)
    with one_at_a_time(database) if database else nullcontext():
        client = MlflowClient(tracking_uri=connectable_uri(uri))
        found = client.get_experiment_by_name(experiment)
        if found is None:
            # Without a server artifacts are files; MLflow's default would be a folder in whatever directory we are in.
            location = (database.parent / FOLDER).as_uri() if database else None
            try:
                return client, client.create_experiment(experiment, artifact_location=location)
            except MlflowException:  # another machine was faster
                found = client.get_experiment_by_name(experiment)
                if found is None:
                    raise
    if found.lifecycle_stage != "active":
        raise RuntimeError(f"experiment {experiment!r} is deleted in MLflow; restore it or set tracking.experiment")
    if database and (message := lost_artifacts(database, found.artifact_location)):
        raise RuntimeError(message)
    return client, found.experiment_id


@contextmanager
def one_at_a_time(database: Path) -> Iterator[None]:
    """For whoever opens an SQLite file that may be new."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(database.with_name(database.name + ".lock")):
        yield


def _find_or_create_run(
    client: MlflowClient, experiment_id: str, folder: Path, record: dict[str, Any], known: str | None
) -> MlflowRun:
    """The MLflow run of a record; known: its id, when it has been there before."""
    with exclusive(RecordFolder(folder).mlflow_lock):  # the sender of a child may be here for its parent
        found = client.search_runs(
            [experiment_id],
            f"tags.`{ID_TAG}` = '{record['id']}'",
            max_results=10,
            order_by=["attributes.start_time ASC"],
        )
        found.sort(key=lambda run: run.info.run_id != known)
        for other in found[1:]:  # of a request that was given up and done again, and that the server came to after all
            with suppress(MlflowException):
                client.delete_run(other.info.run_id)
        if found:
            return found[0]
        return client.create_run(
            experiment_id, start_time=record["created_ms"], run_name=record["name"], tags={ID_TAG: record["id"]}
        )


def _send_description(client: MlflowClient, run: MlflowRun, record: dict[str, Any]) -> None:
    """Parameters that are not there yet (MLflow lets none change), and the tags that differ."""
    params = {_allowed(key): value for key, value in record["params"].items()}
    tags = {KEY_TAG: record["run_key"], **{_allowed(key): value for key, value in record["tags"].items()}}
    client.log_batch(
        run.info.run_id,
        params=[Param(key, value) for key, value in params.items() if key not in run.data.params],
        tags=[RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value],
        synchronous=True,
    )


def _send_data(client: MlflowClient, run: MlflowRun, record: dict[str, Any]) -> None:
    """The data set as an input of the run: its name, and as its digest the checksum of the training images."""
    environments = record.get("environments") or []
    digest = environments[-1].get("data", {}).get("train") if environments else None
    name = record["params"].get("dataset")
    if digest and name and not (run.inputs and run.inputs.dataset_inputs):
        images = Dataset(name, digest, source_type="mcl_lab", source=json.dumps({"data": name}))
        context = InputTag(MLFLOW_DATASET_CONTEXT, "training")
        client.log_inputs(run.info.run_id, datasets=[DatasetInput(images, tags=[context])])


def _send_parent(client: MlflowClient, experiment_id: str, run: MlflowRun, record: dict[str, Any]) -> None:
    """Make the run a child of its sweep's, which is made when its own sender has not come to it yet."""
    parent = record["parent"] and read_record(record["parent"])
    if parent is None or (parent["uri"], parent["experiment"]) != (record["uri"], record["experiment"]):
        return
    known, delivered = run.data.tags.get(MLFLOW_PARENT_RUN_ID), read_delivery(record["parent"], parent)["mlflow_run"]
    if known is None or known != delivered:
        made = _find_or_create_run(client, experiment_id, Path(record["parent"]), parent, delivered)
        client.log_batch(
            run.info.run_id,
            tags=[RunTag(MLFLOW_PARENT_RUN_ID, made.info.run_id), RunTag(SWEEP_TAG, parent["name"])],
            synchronous=True,
        )


def _send_epochs(client: MlflowClient, run: MlflowRun, folder: Path, *, after: int) -> Iterator[int]:
    """Send the epochs `after` that one and yield each that is there; MLflow's step is the epoch."""
    for epoch in read_epochs(folder):
        if epoch["epoch"] > after:
            _send_epoch(client, run, epoch)
            yield epoch["epoch"]


def _send_epoch(client: MlflowClient, run: MlflowRun, epoch: dict[str, Any]) -> None:
    _log_metrics(client, run, epoch["metrics"], time_ms=epoch["time_ms"], step=epoch["epoch"])


def _send_samples(
    client: MlflowClient, run: MlflowRun, folder: Path, delivery: dict[str, Any], *, seconds: float = float("inf")
) -> None:
    """Send the samples of the machine that are not there yet, and remember how far that came in about so many seconds."""

    def send(points: list[Point]) -> None:
        client.log_batch(run.info.run_id, metrics=[Metric(*point) for point in points], synchronous=True)

    carry_samples(send, folder, delivery, seconds)


def _send_final_metrics(client: MlflowClient, run: MlflowRun, folder: Path, status: dict[str, Any]) -> dict[str, float]:
    metrics = (read_result(folder) or {}).get("final", {})
    epochs = read_epochs(folder)
    # The last epoch's time, not the end's: a finished run that is looked at again must not log its metrics again.
    time_ms, step = (epochs[-1]["time_ms"], epochs[-1]["epoch"]) if epochs else (status["ended_ms"], 0)
    _log_metrics(client, run, metrics, time_ms=time_ms, step=step)
    return metrics


def _check_taken(
    client: MlflowClient, run: MlflowRun, folder: Path, record: dict[str, Any], status: str, final: dict[str, float]
) -> None:
    """Read back what the store has of a run that has ended, and send again the epochs that it has not. Raises RuntimeError
    when something is missing: what lies between, a proxy or a sign-in page, may answer for the server, and a database may
    be an older copy."""
    stored = client.get_run(run.info.run_id)
    wanted = {KEY_TAG, *map(_allowed, record["tags"]), *map(_allowed, record["params"]), *map(_allowed, final)}
    missing = wanted - stored.data.tags.keys() - stored.data.params.keys() - stored.data.metrics.keys()
    if stored.info.status != status or missing:
        raise RuntimeError("what was sent is not in the store, though something answered as if it were")
    lost = list(_lost_epochs(client, run, folder))
    for epoch in lost:
        _send_epoch(client, run, epoch)
    if lost:
        raise RuntimeError(f"{len(lost)} epochs were not in the store, though something answered as if they were")


def _lost_epochs(client: MlflowClient, run: MlflowRun, folder: Path) -> Iterator[dict[str, Any]]:
    """Epochs that the store has not, by the history of one metric: an epoch is one request, taken whole or not at all."""
    by_metric: dict[str, list[dict[str, Any]]] = {}
    for epoch in read_epochs(folder):
        name = next((name for name, value in epoch["metrics"].items() if value is not None), None)
        if name is not None:
            by_metric.setdefault(name, []).append(epoch)
    for name, epochs in by_metric.items():
        there = {point.step for point in client.get_metric_history(run.info.run_id, _allowed(name))}
        yield from (epoch for epoch in epochs if epoch["epoch"] not in there)


def _log_metrics(
    client: MlflowClient, run: MlflowRun, metrics: dict[str, float | None], *, time_ms: int, step: int
) -> None:
    points = [Metric(_allowed(name), value, time_ms, step) for name, value in metrics.items() if value is not None]
    client.log_batch(run.info.run_id, metrics=points, synchronous=True)


def _reopen(client: MlflowClient, run: MlflowRun, state: str) -> None:
    if run.info.status != "RUNNING":
        client.update_run(run.info.run_id, status="RUNNING")
    if run.data.tags.get(STATE_TAG, "running") != state:  # a new run has no such tag
        client.set_tag(run.info.run_id, STATE_TAG, state)


def _send_end(client: MlflowClient, run: MlflowRun, folder: Path, status: dict[str, Any] | None, state: str) -> None:
    if status is None or state == "vanished":
        process = f"process {status['pid']} on {status['host']}" if status else "its process"
        message, ended_ms = f"{process} ended without a word", _last_sign_of_life(folder)
    else:
        message, ended_ms = status["message"], status["ended_ms"]
    client.set_tag(run.info.run_id, STATE_TAG, f"{state}: {message}" if message else state)
    client.set_terminated(run.info.run_id, MLFLOW_STATUS[state], ended_ms)


def _last_sign_of_life(folder: Path) -> int:
    """When a file that the training process writes last changed; its lock's heartbeat is the finest clock of them."""
    run = RunFolder(folder)
    files = (run.record, run.status, run.epochs, run.lock, run.log)
    return int(1000 * max(file.stat().st_mtime for file in files if file.exists()))


def _send_artifacts(client: MlflowClient, run: MlflowRun, folder: Path) -> list[str]:
    present = [path.name for place in ARTIFACTS for path in sorted(folder.glob(place.name))]
    for name in present:
        client.log_artifact(run.info.run_id, str(folder / name))
    return present


def _allowed(name: str) -> str:
    """A name with what MLflow refuses in names replaced."""
    return re.sub(r"[^\w/.\- ]", "_", name)
