"""Runs read back: the same from their folders and from MLflow, and nothing made by reading."""

import json
import sqlite3

import pytest
from mlflow import MlflowClient

from mcl_lab.runs.records import RunFolders, StoreUnavailable
from mcl_lab.tracking.mlflow.reader import MlflowRuns
from mcl_lab.tracking.mlflow.store import deliver

FINAL = {"final/a/own_head_last_epoch": 90.5, "final/a/best_epoch": 2.0}


@pytest.fixture
def recorded(store, new_run, epoch, tmp_path):
    """A finished run, one that failed and one that goes on, in their folders and in the store, whose URI is returned."""
    for name, state in (("finished", "finished"), ("failed", "failed"), ("on its way", None)):
        journal = new_run(store, name)
        journal.status("running")
        journal.append(epoch(1))
        journal.append(epoch(2, **{"odd name: 50%": 1.5}))
        if state == "finished":
            (journal.folder / "result.json").write_text(json.dumps({"final": FINAL}))
        if state:
            journal.status(state, "loss: not finite" if state == "failed" else "")
        deliver(journal.folder)
    return store


def test_the_same_from_folders_and_from_mlflow(recorded, tmp_path):
    folders, store = RunFolders(tmp_path), MlflowRuns(recorded, "a study")
    in_folders = {run.name: run for run in folders.runs()}
    in_mlflow = {run.name: run for run in store.runs()}
    assert {name: run._replace(place="") for name, run in in_folders.items()} == {
        name: run._replace(place="") for name, run in in_mlflow.items()
    }
    assert [(name, run.state, run.message, run.epochs) for name, run in sorted(in_mlflow.items())] == [
        ("failed", "failed", "loss: not finite", 2),
        ("finished", "finished", "", None),
        ("on its way", "running", "", 2),
    ]
    assert in_mlflow["finished"].final == {"a/own_head_last_epoch": 90.5, "a/best_epoch": 2.0}
    assert in_mlflow["finished"].tags == {"loss": "lmcl", "git_commit": "abc"}
    for name in in_mlflow:
        wanted = {"train/loss", "test/a/own_head"}
        both = [
            [(epoch["epoch"], epoch["metrics"]) for epoch in place.epochs(run.place, wanted.__contains__)]
            for place, run in ((folders, in_folders[name]), (store, in_mlflow[name]))
        ]
        assert both[0] == both[1] == [
            (n, {"train/loss": 1 / n, "test/a/own_head": 50.0 + n}) for n in (1, 2)
        ]  # fmt: skip


def test_what_is_not_a_run_of_ours_is_passed_over(recorded, tmp_path):
    client = MlflowClient(tracking_uri=recorded)
    experiment = client.get_experiment_by_name("a study").experiment_id
    client.create_run(experiment, run_name="somebody's")
    client.create_run(experiment, tags={"mcl_lab.id": "1", "mcl_lab.run_key": "2", "mcl_lab.kind": "sweep"})
    (tmp_path / "finished" / "record.json").write_text("{}")
    failed = json.loads((tmp_path / "failed" / "record.json").read_text())
    (tmp_path / "sweeps" / "two").mkdir(parents=True)
    sweep = failed | {"tags": {"mcl_lab.kind": "sweep"}, "name": "two"}
    (tmp_path / "sweeps" / "two" / "record.json").write_text(json.dumps(sweep))
    assert len(MlflowRuns(recorded, "a study").runs()) == 3
    assert {run.name for run in RunFolders(tmp_path).runs()} == {"failed", "on its way"}


def test_a_finished_run_without_its_result_has_failed(recorded, tmp_path):
    (tmp_path / "finished" / "result.json").write_text("{")
    (run,) = [run for run in RunFolders(tmp_path).runs() if run.name == "finished"]
    assert (run.state, run.message, run.final) == ("failed", "result.json is missing or damaged", {})


def test_attached_files_replace_those_of_the_same_name(recorded, tmp_path):
    store = MlflowRuns(recorded, "a study")
    place = next(run.place for run in store.runs() if run.name == "finished")
    for text in ("first", "second"):
        (tmp_path / "figure.svg").write_text(text)
        store.attach(place, [tmp_path / "figure.svg"], "figures")
    client = MlflowClient(tracking_uri=recorded)
    assert [file.path for file in client.list_artifacts(place, "figures")] == ["figures/figure.svg"]
    location = client.get_run(place).info.artifact_uri.removeprefix("file://")
    assert (tmp_path / location / "figures" / "figure.svg").read_text() == "second"


@pytest.mark.parametrize("content", [None, b"", b"no database", "another"])
def test_reading_makes_no_store(content, tmp_path):
    file = tmp_path / "mlflow.db"
    if content == "another":
        database = sqlite3.connect(file)
        database.execute("create table mine (x)")
        database.close()
    elif content is not None:
        file.write_bytes(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StoreUnavailable, match="mlflow.db"):
        MlflowRuns(f"sqlite:///{file}", "a study")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_reading_makes_no_experiment(store):
    with pytest.raises(StoreUnavailable, match="no experiment 'mine'"):
        MlflowRuns(store, "mine")
    assert MlflowClient(tracking_uri=store).get_experiment_by_name("mine") is None


def test_a_server_that_is_away_is_told_in_a_line_without_its_password(monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # to be as before afterwards
    with pytest.raises(StoreUnavailable) as error:
        MlflowRuns("http://me:secret@127.0.0.1:9", "a study")
    assert "127.0.0.1:9 does not answer" in str(error.value)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
