"""A project that was moved to another folder: it is noticed, nothing is made where it was, and its records follow."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from training_runs import ALONE, contents

from mcl_lab import cli
from mcl_lab.errors import InputError, RunFailed
from mcl_lab.runs.journal import read_record
from mcl_lab.tasks.sync import sync
from mcl_lab.tracking.delivery import is_delivered
from mcl_lab.tracking.mlflow.store import deliver
from mcl_lab.tracking.moved import lost_artifacts

CONFIG = OmegaConf.create({"tracking": {"uri": "sqlite:///mlflow.db"}})


@pytest.fixture
def old(tmp_path) -> Path:
    return tmp_path / "old place"


@pytest.fixture
def new(old, tmp_path, empty_store, new_run, monkeypatch) -> Path:
    """The current folder, into which `old` was moved: a sweep, a run of it that was delivered, one that was not, a ledger."""
    old.mkdir()
    shutil.copy(empty_store, old / "mlflow.db")
    uri, sweep = f"sqlite:///{old}/mlflow.db", f"{old}/runs/sweeps/mine"
    new_run(uri, "old place/runs/sweeps/mine", tags={"mcl_lab.kind": "sweep"}).status("finished")
    new_run(uri, "old place/runs/delivered", parent=sweep).status("finished")
    sync(None, runs=str(old))
    new_run(uri, "old place/runs/later", parent=sweep).status("finished")
    ledger = {
        "format": 2,
        "launcher": {"cwd": str(old)},
        "runs": [{"folder": f"{old}/runs/later", "name": "older place"}],
    }
    Path(sweep, "ledger.json").write_text(json.dumps(ledger))
    monkeypatch.chdir(old.rename(tmp_path / "new"))
    return Path.cwd()


def artifact_places(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as opened:
        found = opened.execute("select artifact_uri from runs union select artifact_location from experiments")
        return {place for (place,) in found if "mlartifacts" in place}


def test_sync_says_so_and_makes_nothing(old, new, capsys):
    with pytest.raises(RunFailed, match="3 of 3 runs could not be delivered"):
        sync(CONFIG)
    said = f"there is no {old}/mlflow.db any more; if {old} was moved to {new}, give there: task=sync task.moved_from="
    assert capsys.readouterr().out.count(said) == 3
    assert not old.exists()


def test_a_new_run_is_refused_before_anything_is_written(old, new, capsys):
    before = contents(new)
    assert cli.main([*ALONE, "tracking.experiment=a study"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"mcl_lab: error: tracking.uri: {new}/mlflow.db has its artifacts in {old}/mlartifacts, which is gone"
    )
    assert line.endswith(f"give there: task=sync task.moved_from='{old}'")
    assert contents(new) == before and not old.exists()


def test_a_run_that_goes_on_is_not_recorded_in_the_old_place(old, new, new_run):
    run = new_run(f"sqlite:///{new}/mlflow.db", "new/runs/under way")
    run.status("finished")
    with pytest.raises(RuntimeError, match="which is gone; if .* task=sync task.moved_from="):
        deliver(run.folder)
    assert not is_delivered(run.folder) and not old.exists()


def test_what_was_recorded_follows(old, new, stored_runs, capsys):
    sync(CONFIG, moved_from=str(old))
    words = [line.partition(" sqlite:")[0] for line in capsys.readouterr().out.splitlines()]
    assert words == ["runs/later: delivered to", "2 runs already in"]
    assert not old.exists() and read_record("runs/later")["parent"] == f"{new}/runs/sweeps/mine"
    runs = stored_runs(f"sqlite:///{new}/mlflow.db")
    assert sorted(Path(run["name"]).name for run in runs) == ["delivered", "later", "mine"]
    assert [run["artifacts"] for run in runs if run["name"].endswith("delivered")] == [["config.yaml", "run.log"]]
    places = artifact_places(new / "mlflow.db")
    assert len(places) == 4 and all(place.startswith(f"file://{new}/mlartifacts") for place in places)
    ledger = json.loads(Path("runs/sweeps/mine/ledger.json").read_text())
    assert ledger["launcher"]["cwd"] == str(new)
    assert ledger["runs"] == [{"folder": f"{new}/runs/later", "name": "older place"}]

    before = contents(new)
    sync(CONFIG, moved_from=str(old))
    assert {name for name, content in contents(new).items() if content != before[name]} <= {"mlflow.db"}


def test_in_another_folder_than_it_was_moved_to_nothing_is_changed(old, new, tmp_path, monkeypatch):
    before = contents(new)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for where, said in ((old, "there is no "), (tmp_path, "must be a folder that .* is not in")):
        with pytest.raises(InputError, match=said) as error:
            sync(CONFIG, runs=str(new / "runs"), moved_from=str(where))
        assert error.value.key == "task.moved_from"
    assert contents(new) == before


@pytest.mark.parametrize(
    ("location", "lost"),
    [
        ("file://{old}/mlartifacts", True),
        ("{old}/mlruns/1", True),  # of an experiment that was made without this program
        ("{old}/mlruns/2", False),  # nothing has been put there yet
        ("file://{here}/mlartifacts", False),
        ("file://{here}/moved/../mlartifacts", False),
        ("mlflow-artifacts:/1", False),
        ("s3://bucket/mlartifacts", False),
    ],
)
def test_artifacts_that_are_lost(location, lost, tmp_path):
    (tmp_path / "mlruns" / "1").mkdir(parents=True)
    (tmp_path / "moved").mkdir()
    message = lost_artifacts(tmp_path / "mlflow.db", location.format(old="/gone/project", here=tmp_path))
    assert (message is not None) == lost
    assert not lost or "task.moved_from=/gone/project" in message
