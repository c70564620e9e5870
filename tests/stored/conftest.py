"""The stored run folders, copied to where they may be changed, and run.py called beside them in this process."""

import shutil
from pathlib import Path

import pytest
from training_runs import caller, nothing_from_outside


@pytest.fixture(scope="session", autouse=True)
def quiet_surroundings():
    """Nothing from outside that would steer a run, and the threads afterwards as they were."""
    with nothing_from_outside():
        yield


@pytest.fixture
def stored_runs(tmp_path) -> Path:
    """A copy of all stored runs, tmp_path/runs."""
    return Path(shutil.copytree(Path(__file__).with_name("runs"), tmp_path / "runs"))


@pytest.fixture
def call(stored_runs, monkeypatch, capfd):
    """call(*arguments) -> Ended: run.py's main in this process, in the folder that `stored_runs` is in."""
    monkeypatch.chdir(stored_runs.parent)
    return caller(monkeypatch, capfd)
