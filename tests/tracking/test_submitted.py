"""A sweep whose launcher has handed the runs to a scheduler and left: not ended, and nobody's process stands for it."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mcl_lab.runs.journal import Journal, end_state, read_status
from mcl_lab.runs.records import is_running
from mcl_lab.tasks.sync import sync
from mcl_lab.tracking.delivery import is_delivered, wait_delivered
from mcl_lab.tracking.mlflow.store import deliver
from mcl_lab.tracking.sender import follow

ROOT = Path(__file__).parents[2]

# What a process of another job does at the sweep's end.
ENDS = """
import sys
sys.path.insert(0, {root!r})
from mcl_lab.tracking.delivery import wait_delivered
from mcl_lab.runs.journal import Journal
from mcl_lab.tracking.sender import start_sender
for _ in range({times}):
    Journal(sys.argv[1]).status(sys.argv[2], sys.argv[3])
start_sender(sys.argv[1])
sys.exit(0 if wait_delivered(sys.argv[1], 120) else 1)
"""


def ends(folder: Path, state: str, message: str = "", times: int = 1) -> subprocess.Popen:
    code = ENDS.format(root=str(ROOT), times=times)
    return subprocess.Popen([sys.executable, "-c", code, str(folder), state, message])


def gone() -> subprocess.Popen:
    process = subprocess.Popen(["true"])
    process.wait()
    return process


@pytest.fixture
def submitted(store, new_sweep, signed_by):
    """The journal of a sweep that another process, which is gone, has submitted."""
    journal = new_sweep(store)
    journal.status("running")
    journal.status("submitted")
    signed_by(journal.folder, pid=gone().pid, process_start="another-boot:1")
    return journal


def states(stored_runs, store) -> list[tuple[str, str]]:
    return [(run["status"], run["tags"].get("mcl_lab.state")) for run in stored_runs(store)]


def test_it_has_not_ended_and_does_not_vanish(submitted, store, stored_runs, capsys):
    status = read_status(submitted.folder)
    assert status["state"] == "submitted" and status["ended_ms"] is None
    assert end_state(status, vanished=True) is None and end_state(status, vanished=False) is None
    assert not is_running(submitted.folder)
    assert not is_delivered(submitted.folder)
    for words in ("delivered to", "already in"):
        sync(None, runs=str(submitted.folder))
        assert words in capsys.readouterr().out
        assert states(stored_runs, store) == [("RUNNING", "submitted")]
    assert is_delivered(submitted.folder) and is_delivered(submitted.folder, vanished=True)
    assert stored_runs(store)[0]["end_ms"] is None


def test_its_launcher_s_sender_ends_with_it(submitted, store, stored_runs):
    pid = read_status(submitted.folder)["pid"]
    assert follow(submitted.folder, pid, poll=0.02)
    assert states(stored_runs, store) == [("RUNNING", "submitted")]


def test_a_store_that_stays_away_is_given_up(new_sweep, tmp_path):
    (tmp_path / "disk").write_text("not mounted")
    journal = new_sweep(f"sqlite:///{tmp_path}/disk/mlflow.db")
    journal.status("submitted")
    assert not follow(journal.folder, os.getpid(), poll=0.02, longest_pause=0.1, after_end=0.3)
    assert not wait_delivered(journal.folder, 60)


def test_a_launcher_that_is_killed_before_has_vanished_and_submits_again(store, new_sweep, stored_runs, signed_by):
    journal = new_sweep(store)
    journal.status("running")
    signed_by(journal.folder, process_start="another-boot:1")
    assert follow(journal.folder, gone().pid, poll=0.02)  # not its own: left to its own sender
    sync(None, runs=str(journal.folder))
    assert states(stored_runs, store)[0][0] == "FAILED"
    again = Journal(journal.folder)
    again.status("running")
    again.status("submitted")
    assert follow(journal.folder, os.getpid(), poll=0.02)
    assert states(stored_runs, store) == [("RUNNING", "submitted")]


def test_another_process_ends_it_and_the_next_submission_opens_it_again(submitted, store, stored_runs):
    assert deliver(submitted.folder)
    for state, status in (("failed", "FAILED"), ("finished", "FINISHED")):
        assert ends(submitted.folder, state, "3 of 4").wait(120) == 0
        ((mlflow_status, tag),) = states(stored_runs, store)
        assert (mlflow_status, tag) == (status, f"{state}: 3 of 4")
        assert stored_runs(store)[0]["end_ms"] == read_status(submitted.folder)["ended_ms"]
        again = Journal(submitted.folder)
        again.status("running")
        again.status("submitted")
        assert not is_delivered(submitted.folder)
        assert follow(submitted.folder, os.getpid(), poll=0.02)
        assert states(stored_runs, store) == [("RUNNING", "submitted")]


def test_two_processes_that_end_it_at_once_do_no_harm(submitted, store, stored_runs):
    both = [ends(submitted.folder, "finished", f"by {n}", times=100) for n in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    status = read_status(submitted.folder)
    assert states(stored_runs, store) == [("FINISHED", f"finished: {status['message']}")]
    assert stored_runs(store)[0]["end_ms"] == status["ended_ms"]
    assert (submitted.folder / "sender.log").read_text() == ""
    assert not list(submitted.folder.glob(".*.tmp"))


def test_a_status_that_many_write_is_whole_at_every_moment(submitted):
    """The last word of several processes, here threads with a journal each; a reader finds one of them, never half."""
    writers = [
        threading.Thread(
            target=lambda n=n: [Journal(submitted.folder).status("failed", f"{n}" * 1000) for _ in range(50)]
        )
        for n in range(4)
    ]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        status = json.loads((submitted.folder / "status.json").read_text())
        seen.add((status["state"], len(status["message"])))
    assert seen <= {("submitted", 0), ("failed", 1000)} and ("failed", 1000) in seen
    assert not list(submitted.folder.glob(".*.tmp"))
