"""The stored run folders, copied to where they may be changed, and run.py called beside them in this process."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from training_runs import RUN, Ended

from mcl_lab import cli


@pytest.fixture(scope="session", autouse=True)
def quiet_surroundings():
    """Nothing from outside that would steer a run, and the threads afterwards as they were."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "MLFLOW_", "MCL_LAB_"))]:
            patch.delenv(name)
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)


@pytest.fixture
def stored_runs(tmp_path) -> Path:
    """A copy of all stored runs, tmp_path/runs."""
    return Path(shutil.copytree(Path(__file__).with_name("runs"), tmp_path / "runs"))


@pytest.fixture
def call(stored_runs, monkeypatch, capfd):
    """call(*arguments) -> Ended: run.py's main in this process, in the folder that `stored_runs` is in."""
    monkeypatch.chdir(stored_runs.parent)

    def run_main(*arguments) -> Ended:
        monkeypatch.setattr(sys, "argv", [str(RUN), *arguments])
        capfd.readouterr()
        status = cli.main(list(arguments))
        return Ended(status, *capfd.readouterr())

    return run_main
