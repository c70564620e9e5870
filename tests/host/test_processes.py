"""Processes are told apart from others that have, or had, their number."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from mcl_lab.host.processes import Life, ProcessId

THIS = ProcessId.this()


@pytest.fixture
def gone():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("changes", "life"),
    [
        ({}, Life.ALIVE),
        ({"start": ""}, Life.ALIVE),  # written where a start is not known
        ({"start": "another-boot:1"}, Life.GONE),  # its number is another process's now
        ({"start": None}, Life.GONE),  # it was gone already when it was asked for
        ({"host": "elsewhere"}, Life.UNKNOWN),
        ({"host": "elsewhere", "start": None}, Life.UNKNOWN),
    ],
)
def test_life(changes, life):
    process = dataclasses.replace(THIS, **changes)
    assert process.life() is life and process.is_alive() is (life is Life.ALIVE)
    assert process.is_here is (life is not Life.UNKNOWN)


def test_a_process_that_ends(gone):
    child = subprocess.Popen(["sleep", "600"])
    process = ProcessId.of(child.pid)
    assert process.is_alive() and process != THIS
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried
    assert process.life() is Life.GONE
    child.wait()
    assert process.life() is Life.GONE and ProcessId.of(gone).life() is Life.GONE


def test_it_is_written_and_read_by_the_names_that_files_have():
    fields = THIS.fields()
    assert fields == {"pid": os.getpid(), "process_start": THIS.start, "host": THIS.host}
    assert ProcessId.read(json.loads(json.dumps({"state": "running", **fields}))) == THIS
