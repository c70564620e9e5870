"""MLflow stores that are quick to make."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_foreign_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "MLFLOW_TRACKING_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An SQLite file with MLflow's schema in it, which takes seconds to make."""
    from mcl_lab.tracking.mlflow import store as mlflow_store

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow_store.MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store(empty_store, tmp_path) -> str:
    """The URI of a store of one's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def new_sweep(new_run):
    """new_sweep(uri, name) -> Journal of a sweep's own record, in a folder of its own."""
    return lambda uri, name="sweeps/mine": new_run(uri, name, tags={"mcl_lab.kind": "sweep"})


@pytest.fixture
def stored_runs():
    """stored_runs(uri) -> every MLflow run in the store, with all points of all metrics, by plain SQL."""
    import sqlite3

    def rows(uri: str) -> list[dict]:
        database = sqlite3.connect(uri.removeprefix("sqlite:///"))
        database.row_factory = sqlite3.Row
        found = []
        for run in database.execute("select * from runs order by start_time"):

            def of_run(columns: str, table: str, key: str = run["run_uuid"]) -> list[tuple]:
                found_rows = database.execute(f"select {columns} from {table} where run_uuid = ?", [key])
                return [tuple(row) for row in found_rows]

            artifacts = Path(run["artifact_uri"].removeprefix("file://"))
            found.append(
                {
                    "id": run["run_uuid"],
                    "name": run["name"],
                    "status": run["status"],
                    "start_ms": run["start_time"],
                    "end_ms": run["end_time"],
                    "metrics": sorted(of_run("key, value, timestamp, step", "metrics")),
                    "params": dict(of_run("key, value", "params")),
                    "tags": dict(of_run("key, value", "tags")),
                    "artifacts": sorted(path.name for path in artifacts.glob("*")),
                }
            )
        database.close()
        return found

    return rows


@pytest.fixture
def epochs_as_points():
    """What MLflow must hold of a list of journal epochs."""

    def points(epochs: list[dict]) -> list[tuple]:
        return sorted(
            (name, value, epoch["time_ms"], epoch["epoch"])
            for epoch in epochs
            for name, value in epoch["metrics"].items()
        )

    return points
