"""What runs of a sweep leave undelivered when their senders are killed, and a sibling's sender that finds it."""

import json
import os
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from mcl_lab.host.files import exclusive
from mcl_lab.runs.journal import Journal
from mcl_lab.runs.layout import RecordFolder
from mcl_lab.runs.lock import RunLock
from mcl_lab.tracking.delivery import is_delivered, wait_sender
from mcl_lab.tracking.sender import follow

GONE = {"process_start": "another-boot:1"}


@pytest.fixture
def sweep_of(new_sweep, new_run, epoch):
    """sweep_of(uri, *names) -> (the sweep's journal, submitted, and those of its runs, each with an epoch)."""

    def make(uri, *names):
        sweep = new_sweep(uri)
        sweep.status("submitted")
        runs = [new_run(uri, name, parent=str(sweep.folder)) for name in names]
        for journal in runs:
            journal.status("running")
            journal.append(epoch(1))
        return sweep, *runs

    return make


def carried(journal) -> bool:
    """What its sender does once the run of this process has ended."""
    return follow(journal.folder, os.getpid(), poll=0.02, longest_pause=0.1, after_end=10)


def statuses(stored_runs, uri):
    return {run["name"]: run["status"] for run in stored_runs(uri)}


def test_a_run_s_sender_delivers_what_others_of_the_sweep_left(
    store, sweep_of, stored_runs, signed_by, epochs_as_points, epoch
):
    sweep, own, ended, stopped, vanished, wordless, alive = sweep_of(
        store, "own", "ended", "stopped", "vanished", "wordless", "alive"
    )
    own.status("finished")
    ended.status("failed", "out of memory")
    stopped.status("interrupted")
    signed_by(vanished.folder, **GONE)
    (wordless.folder / "status.json").unlink()
    assert carried(own)
    assert statuses(stored_runs, store) == {
        "sweeps/mine": "RUNNING",
        "own": "FINISHED",
        "ended": "FAILED",
        "stopped": "KILLED",
        "vanished": "FAILED",
        "wordless": "FAILED",
    }
    by_name = {run["name"]: run for run in stored_runs(store)}
    parent = by_name.pop("sweeps/mine")
    assert all(run["metrics"] == epochs_as_points([epoch(1)]) for run in by_name.values())
    assert {run["tags"]["mlflow.parentRunId"] for run in by_name.values()} == {parent["id"]}
    assert is_delivered(sweep.folder) and not (alive.folder / "delivery.json").exists()

    before = stored_runs(store)
    own.status("finished")  # once more: nothing is left
    assert carried(own)
    assert [run["metrics"] for run in stored_runs(store)] == [run["metrics"] for run in before]


def test_what_is_somebody_else_s_is_left_alone(store, sweep_of, new_run, stored_runs, tmp_path):
    _, own, carried_by_its_own = sweep_of(store, "own", "carried by its own")
    other_store = f"sqlite:///{tmp_path}/other.db"
    for name, uri, changes in (
        ("alone", store, {}),
        ("of another sweep", store, {"parent": str(tmp_path / "sweeps" / "another")}),
        ("in another store", other_store, {"parent": str(tmp_path / "sweeps" / "mine")}),
        ("in another experiment", store, {"parent": str(tmp_path / "sweeps" / "mine"), "experiment": "b"}),
        ("untracked", None, {"parent": str(tmp_path / "sweeps" / "mine")}),
    ):
        new_run(uri, name, **changes).status("finished")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "record.json").write_text("{}")
    own.status("finished")
    carried_by_its_own.status("finished")
    with exclusive(RecordFolder(carried_by_its_own.folder).sender_lock):
        assert carried(own)
    assert statuses(stored_runs, store) == {"sweeps/mine": "RUNNING", "own": "FINISHED"}
    assert not (tmp_path / "other.db").exists()


def test_a_run_alone_delivers_nobody_else_s(store, new_run, stored_runs):
    for name in ("own", "other"):
        new_run(store, name).status("finished")
    journal = Journal(new_run(store, "third").folder)
    journal.status("finished")
    assert carried(journal)
    assert statuses(stored_runs, store) == {"third": "FINISHED"}


def test_a_run_that_a_living_process_holds_has_not_vanished(store, sweep_of, stored_runs, signed_by):
    """An earlier attempt left `running`; the process that goes on with it holds the lock and has not said so yet."""
    _, own, here, elsewhere = sweep_of(store, "own", "here", "elsewhere")
    own.status("finished")
    signed_by(here.folder, **GONE)
    signed_by(elsewhere.folder, host="elsewhere")
    with RunLock(here.folder), RunLock(elsewhere.folder) as lock:
        owner = json.loads(lock.path.read_text())
        lock.path.write_text(json.dumps(owner | {"host": "elsewhere"}))
        assert carried(own)
        assert statuses(stored_runs, store) == {"sweeps/mine": "RUNNING", "own": "FINISHED"}
        os.utime(lock.path, (time.time() - 61,) * 2)  # its heart has stopped
        own.status("finished")
        assert carried(own)
        lock.path.unlink()
    assert statuses(stored_runs, store) == {"sweeps/mine": "RUNNING", "own": "FINISHED", "elsewhere": "FAILED"}


def test_a_launcher_on_another_host_is_not_taken_for_gone(store, sweep_of, stored_runs, signed_by):
    sweep, own = sweep_of(store, "own")
    sweep.status("running")
    own.status("finished")
    signed_by(sweep.folder, host="elsewhere")
    assert carried(own)
    assert statuses(stored_runs, store) == {"sweeps/mine": "RUNNING", "own": "FINISHED"}
    signed_by(sweep.folder, host=json.loads((own.folder / "status.json").read_text())["host"], **GONE)
    own.status("finished")
    assert carried(own)
    assert statuses(stored_runs, store) == {"sweeps/mine": "FAILED", "own": "FINISHED"}


def test_the_first_failure_ends_it_and_the_run_itself_is_well(store, sweep_of, monkeypatch):
    """A store that takes the run and then fails is asked once more, not once for each of the others."""
    from mcl_lab.tracking.mlflow import store as mlflow_store

    sweep, own, *others = sweep_of(store, "own", *(f"other{n}" for n in range(5)))
    for journal in (own, *others):
        journal.status("finished")
    real, asked = mlflow_store.deliver, []

    def fails_for_others(folder, **options):
        if folder == own.folder:
            return real(folder, **options)
        asked.append(folder)
        raise ConnectionError("gone")

    monkeypatch.setattr(mlflow_store, "deliver", fails_for_others)
    assert carried(own)
    assert asked == [sweep.folder]
    assert is_delivered(own.folder) and not any(is_delivered(journal.folder) for journal in others)


def test_a_store_that_fails_is_not_asked_for_others(tmp_path, sweep_of):
    (tmp_path / "disk").write_text("not mounted")
    _, own, other = sweep_of(f"sqlite:///{tmp_path}/disk/mlflow.db", "own", "other")
    own.status("finished")
    other.status("finished")
    assert not follow(own.folder, os.getpid(), poll=0.02, longest_pause=0.1, after_end=0.3)
    assert not (other.folder / "delivery.json").exists()


def test_a_run_that_goes_on_gets_its_sender_at_once(store, sweep_of, monkeypatch):
    """It is not kept waiting for what others have left."""
    from mcl_lab.tracking.mlflow import store as mlflow_store

    _, own, *others = sweep_of(store, "own", *(f"other{n}" for n in range(5)))
    for journal in (own, *others):
        journal.status("finished")
    real, delivered = mlflow_store.deliver, []

    def then_it_goes_on(folder, **options):
        whole = real(folder, **options)
        delivered.append(folder)
        if len(delivered) == 3:  # itself, the sweep, another
            Journal(own.folder).status("running")
        return whole

    monkeypatch.setattr(mlflow_store, "deliver", then_it_goes_on)
    assert carried(own)
    assert len(delivered) == 3


def test_senders_that_leave_together_share_out_what_is_left(store, sweep_of, stored_runs):
    _, *runs = sweep_of(store, *(f"run{n}" for n in range(12)))
    for journal in runs:
        journal.status("finished")
    threads = [threading.Thread(target=carried, args=(journal,)) for journal in runs[:4]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(is_delivered(journal.folder) and wait_sender(journal.folder, 0) for journal in runs)
    assert sorted(run["name"] for run in stored_runs(store)) == sorted(["sweeps/mine", *(f"run{n}" for n in range(12))])
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
        assert database.execute("select count(*) from metrics").fetchone() == (24,)


def test_waiting_for_a_sender_has_an_end(store, new_run):
    journal = new_run(store)
    with exclusive(RecordFolder(journal.folder).sender_lock):
        assert not wait_sender(journal.folder, 0.2)
    assert wait_sender(journal.folder, 0)
