"""Reads runs back from MLflow, in the form of runs/records.py, and attaches files to them. Makes no store and no experiment."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.entities import ViewType

from mcl_lab.host.uri import connectable_uri, credentials, sqlite_file, stored_uri
from mcl_lab.runs.journal import KIND_TAG
from mcl_lab.runs.records import RecordedRun, StoreUnavailable, final_metrics_in
from mcl_lab.tracking.delivery import one_line
from mcl_lab.tracking.mlflow.store import ID_TAG, KEY_TAG, MLFLOW_STATUS, STATE_TAG, one_at_a_time
from mcl_lab.tracking.moved import refuse_moved
from mcl_lab.tracking.system import PREFIX

PAGE = 1000  # runs a request
STATES = {status: state for state, status in MLFLOW_STATUS.items() if state != "vanished"}


def known_ids(uri: str, experiment: str) -> set[str]:
    """The ids of all our records in an experiment, of runs that somebody deleted too; none where there is no such file or
    experiment. `uri` as it is stored. Raises what MLflow raises."""
    database = sqlite_file(uri)
    if database is not None and not database.exists():  # MLflow would make it
        return set()
    with one_at_a_time(database) if database else nullcontext():
        client = MlflowClient(tracking_uri=connectable_uri(uri))
        found = client.get_experiment_by_name(experiment)
    return set() if found is None else _ids(client, found.experiment_id)


class MlflowRuns:
    """Our runs in one experiment of a store."""

    def __init__(self, uri: str, experiment: str):
        """`uri` as the user gave it. Raises StoreUnavailable, and InputError for a URI that MLflow has no store for."""
        self.uri, self.experiment = stored_uri(uri), experiment
        _refuse_unmade(sqlite_file(self.uri))
        os.environ.update(credentials(uri))
        with self._reaching():
            self._client = MlflowClient(tracking_uri=connectable_uri(self.uri))
            found = self._client.get_experiment_by_name(experiment)
        if found is None:
            raise StoreUnavailable(f"{self.uri} has no experiment {experiment!r}")
        self._experiment_id = found.experiment_id

    def __str__(self) -> str:
        return f"experiment {self.experiment!r} in {self.uri}"

    def runs(self) -> list[RecordedRun]:
        """All that are not deleted, the oldest first."""
        with self._reaching():
            return [self._read(run) for run in self._search()]

    def ids(self) -> set[str]:
        """Of all our records here, of runs that somebody deleted too."""
        with self._reaching():
            return _ids(self._client, self._experiment_id)

    def find(self, name: str) -> RecordedRun | None:
        """The run of that id or name; of several of one name the finished one, the newest of these. None when there is none."""
        with self._reaching():
            runs = self._search()
            found = [run for run in runs if name in (run.info.run_id, run.data.tags[ID_TAG], run.info.run_name)]
            newest = max(found, key=lambda run: (run.info.status == "FINISHED", run.info.start_time), default=None)
            return None if newest is None else self._read(newest)

    def names(self) -> list[str]:
        """Of all runs."""
        with self._reaching():
            return [run.info.run_name for run in self._search()]

    def download(self, place: str, files: Sequence[str], folder: Path) -> None:
        """Bring files of a run's artifacts into a folder. Raises StoreUnavailable, for one that is not there as well."""
        with self._reaching():
            for file in files:
                self._client.download_artifacts(place, file, str(folder))

    def epochs(self, place: str, wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
        """A run's epochs, in order, with the metrics whose names are wanted; one request a metric."""
        epochs: dict[int, dict[str, float]] = {}
        with self._reaching():
            names = self._client.get_run(place).data.metrics
            for name in (name for name in names if wanted(name) and not name.startswith(PREFIX)):
                for point in self._client.get_metric_history(place, name):
                    epochs.setdefault(point.step, {})[name] = point.value
        return [{"epoch": epoch, "metrics": epochs[epoch]} for epoch in sorted(epochs)]

    def attach(self, place: str, files: Sequence[Path], folder: str) -> None:
        """Put files into a folder of the run's artifacts; one of the same name is replaced. Raises InputError for a store that
        was moved."""
        refuse_moved(self.uri, self.experiment)
        with self._reaching():
            for file in files:
                self._client.log_artifact(place, str(file), folder)

    def _search(self) -> list[MlflowRun]:
        return list(filter(_is_ours, _search(self._client, self._experiment_id, ViewType.ACTIVE_ONLY)))

    def _read(self, run: MlflowRun) -> RecordedRun:
        tags = run.data.tags
        state, _, message = tags.get(STATE_TAG, "").partition(": ")
        if run.info.status in ("RUNNING", "SCHEDULED") or not state:
            state, message = STATES.get(run.info.status, "running"), ""
        return RecordedRun(
            id=tags[ID_TAG],
            name=run.info.run_name,
            run_key=tags[KEY_TAG],
            params=run.data.params,
            tags={name: value for name, value in tags.items() if not name.startswith(("mcl_lab.", "mlflow."))},
            state=state,
            message=message,
            created_ms=run.info.start_time,
            epochs=None if state == "finished" else self._last_epoch(run),
            final=final_metrics_in(run.data.metrics) if state == "finished" else {},
            place=run.info.run_id,
        )

    def _last_epoch(self, run: MlflowRun) -> int:
        if "train/loss" not in run.data.metrics:
            return 0
        return max(point.step for point in self._client.get_metric_history(run.info.run_id, "train/loss"))

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of what is no MLflow server, MLflow raises whatever its answer trips over
            raise StoreUnavailable(f"{self.uri} does not answer as an MLflow store: {one_line(error)}") from error


def _ids(client: MlflowClient, experiment_id: str) -> set[str]:
    runs = _search(client, experiment_id, ViewType.ALL)
    return {run.data.tags[ID_TAG] for run in runs if ID_TAG in run.data.tags}


def _search(client: MlflowClient, experiment_id: str, view: int) -> Iterator[MlflowRun]:
    """All runs of an experiment, the oldest first."""
    token: str | None = ""
    while token is not None:
        page = client.search_runs(
            [experiment_id],
            run_view_type=view,
            max_results=PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token or None


def _is_ours(run: MlflowRun) -> bool:
    return {ID_TAG, KEY_TAG} <= run.data.tags.keys() and KIND_TAG not in run.data.tags


def _refuse_unmade(database: Path | None) -> None:
    """MLflow would make a store of a file that is none, or not there."""
    if database is None:
        return
    if not database.is_file():
        raise StoreUnavailable(f"there is no file {database}")
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened:
            made = opened.execute("select count(*) from alembic_version").fetchone()[0]
    except sqlite3.Error:
        made = 0
    if not made:
        raise StoreUnavailable(f"{database} is no MLflow store")
