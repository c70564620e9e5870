import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mcl_lab.errors import InputError, RunFailed
from mcl_lab.host.files import exclusive
from mcl_lab.runs.layout import RecordFolder
from mcl_lab.runs.lock import RunLock
from mcl_lab.tasks.sync import sync
from mcl_lab.tracking.delivery import is_delivered

ROOT = Path(__file__).parents[2]


def test_everything_that_is_not_there_yet_is_delivered_and_each_run_gets_a_line(
    store, new_run, stored_runs, epoch, tmp_path, capsys, signed_by
):
    for name in ("finished", "killed", "moved away", "alive", "untracked"):
        journal = new_run(None if name == "untracked" else store, name)
        journal.append(epoch(1))
        journal.status("finished" if name in ("finished", "untracked") else "running")
    signed_by(tmp_path / "killed", process_start="another-boot:1")
    signed_by(tmp_path / "moved away", host="elsewhere")  # and no lock, whose heart would beat
    sync(None, runs=str(tmp_path))
    statuses = {run["name"]: run["status"] for run in stored_runs(store)}
    assert statuses == {"finished": "FINISHED", "killed": "FAILED", "moved away": "FAILED", "alive": "RUNNING"}
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.partition(": ")[0]).name for line in lines[:-1]] == sorted(statuses)
    assert lines[-1] == "1 run not tracked"
    before = stored_runs(store)
    sync(None, runs=str(tmp_path))
    assert stored_runs(store) == before
    assert f"3 runs already in {store}\n" in capsys.readouterr().out


def test_a_run_on_another_host_lives_as_long_as_its_lock_beats(store, new_run, stored_runs, signed_by):
    journal = new_run(store)
    journal.status("running")
    signed_by(journal.folder, host="elsewhere")
    with RunLock(journal.folder) as lock:
        owner = json.loads(lock.path.read_text())
    for age, status in ((0, "RUNNING"), (61, "FAILED")):
        lock.path.write_text(json.dumps(owner | {"host": "elsewhere"}))
        os.utime(lock.path, (time.time() - age,) * 2)
        sync(None, runs=str(journal.folder))
        assert [run["status"] for run in stored_runs(store)] == [status]


def test_a_run_that_a_sender_carries_is_left_to_it(store, new_run, stored_runs, capsys):
    journal = new_run(store)
    journal.status("finished")
    with exclusive(RecordFolder(journal.folder).sender_lock):
        sync(None, runs=str(journal.folder))
    assert "sender is at work" in capsys.readouterr().out
    assert stored_runs(store) == []


def test_one_store_that_is_away_does_not_keep_the_others_waiting(store, new_run, stored_runs, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for name, uri in (("a", f"sqlite:///{tmp_path}/file/mlflow.db"), ("b", store)):
        new_run(uri, name).status("finished")
    with pytest.raises(RunFailed, match="1 of 2 runs"):
        sync(None, runs=str(tmp_path))
    assert not is_delivered(tmp_path / "a") and is_delivered(tmp_path / "b")
    assert "not delivered" in capsys.readouterr().out.splitlines()[0]


def test_a_missing_folder_names_the_setting(tmp_path):
    with pytest.raises(InputError) as error:
        sync(None, runs=str(tmp_path / "nowhere"))
    assert error.value.key == "task.runs"


def test_a_folder_without_records_says_so(tmp_path, capsys):
    sync(None, runs=str(tmp_path))
    assert capsys.readouterr().out == f"{tmp_path}: no records of runs\n"


def test_a_user_sees_nothing_of_mlflow_s_own_talk(store, new_run):
    journal = new_run(store)
    journal.status("finished")
    code = f"from mcl_lab.tasks.sync import sync; sync(None, runs={str(journal.folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{journal.folder}: delivered to {store}\n"


def sync_in_a_new_process(place: Path) -> list[str]:
    """Its lines, as far as the store's name. MLflow keeps a database open that a process has once opened."""
    code = f"from mcl_lab.tasks.sync import sync; sync(None, runs={str(place)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return [line.removeprefix(f"{place}/").partition(" sqlite:")[0] for line in done.stdout.splitlines()]


def test_what_a_store_has_lost_is_delivered_again(store, empty_store, new_run, stored_runs, epoch, tmp_path):
    """A database that somebody deleted, or put an older copy in its place; a run deleted in the UI stays so."""
    database = tmp_path / "mlflow.db"
    for name in ("a", "b", "sweeps/mine"):
        journal = new_run(store, name)
        journal.append(epoch(1))
        journal.status("finished")
    delivered = [f"{name}: delivered to" for name in ("a", "b", "sweeps/mine")]
    assert sync_in_a_new_process(tmp_path) == delivered
    before = {run["name"]: run["metrics"] for run in stored_runs(store)}
    database.unlink()
    assert sync_in_a_new_process(tmp_path) == delivered
    assert {run["name"]: run["metrics"] for run in stored_runs(store)} == before and len(before) == 3

    shutil.copy(empty_store, database)
    assert len(sync_in_a_new_process(tmp_path / "a")) == 1
    MlflowClient(tracking_uri=store).delete_run(stored_runs(store)[0]["id"])
    assert sync_in_a_new_process(tmp_path) == [*delivered[1:], "1 run already in"]
    assert sorted(run["name"] for run in stored_runs(store)) == ["a", "b", "sweeps/mine"]


def test_a_store_that_has_gone_away_since_is_said_so(store, new_run, tmp_path, capsys):
    new_run(store).status("finished")
    sync(None, runs=str(tmp_path / "run"))
    assert "delivered to" in capsys.readouterr().out
    (tmp_path / "mlflow.db").write_text("no database any more")
    assert sync_in_a_new_process(tmp_path / "run") == ["1 run delivered before to"]


def test_what_is_lost_and_cannot_be_delivered_again_is_said_so(store, empty_store, new_run, tmp_path):
    new_run(store).status("finished")
    assert len(sync_in_a_new_process(tmp_path / "run")) == 1
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("create trigger full before insert on runs begin select raise(abort, 'no room'); end")
    with pytest.raises(subprocess.CalledProcessError) as ended:
        sync_in_a_new_process(tmp_path / "run")
    assert ": not delivered: " in ended.value.stdout and "1 of 1 runs could not be delivered" in ended.value.stderr
