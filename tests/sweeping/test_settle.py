"""The record of a sweep when somebody looks at it: brought up to date only where nobody else does, and to what says more."""

import json
import subprocess

import pytest

from mcl_lab.runs.journal import Journal, read_status
from mcl_lab.runs.layout import SweepFolder
from mcl_lab.sweeping.record import settle


def sign_by_gone(folder, **changes):
    process = subprocess.Popen(["true"])
    process.wait()
    status = read_status(folder) | {"pid": process.pid, "process_start": "gone"} | changes
    SweepFolder(folder).status.write_text(json.dumps(status))


@pytest.mark.parametrize(
    ("before", "states", "after"),
    [
        ("submitted", ["finished", "queued"], "submitted"),
        ("submitted", ["finished", "failed"], "failed"),
        ("submitted", ["finished", "finished"], "finished"),
        ("failed", ["finished", "finished"], "finished"),
        ("interrupted", ["finished", "waiting"], "interrupted"),
        ("interrupted", ["finished", "finished"], "finished"),
        ("running", ["finished", "cancelled"], "running"),  # by this process, which is there
    ],
)
def test_settle(before, states, after, tmp_path):
    Journal(tmp_path).status(before)
    settle(tmp_path, states)
    assert read_status(tmp_path)["state"] == after


def test_a_launcher_that_was_killed(tmp_path):
    Journal(tmp_path).status("running")
    sign_by_gone(tmp_path, host="another")
    settle(tmp_path, ["finished"])
    assert read_status(tmp_path)["state"] == "running"  # it may be there
    Journal(tmp_path).status("running")
    sign_by_gone(tmp_path)
    settle(tmp_path, ["finished"])
    assert read_status(tmp_path)["state"] == "finished"
