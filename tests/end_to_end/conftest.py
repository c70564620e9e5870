"""Undisturbed runs to compare with, each trained once a session, and run.py called in this process."""

import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from training_runs import ALONE, BASELINE, LMCL, RUN, Store, caller, nothing_from_outside, only_folder, stop_itself

from mcl_lab import cli


@pytest.fixture(scope="session", autouse=True)
def quiet_surroundings():
    """One thread, and nothing from outside that would steer a run."""
    with nothing_from_outside() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("FORCE_COLOR", raising=False)
        yield


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """call(*arguments) -> Ended: run.py's main in this process, in the folder tmp_path."""
    monkeypatch.chdir(tmp_path)
    return caller(monkeypatch, capfd)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """undisturbed(*arguments) -> the folder of that run, never interrupted and not to be changed."""
    trained = {}

    def train(*arguments) -> Path:
        if arguments not in trained:
            cwd = tmp_path_factory.mktemp("undisturbed")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(cwd)
                patch.setattr(sys, "argv", [str(RUN), *arguments])
                assert cli.main(list(arguments)) == 0
            trained[arguments] = only_folder(cwd)
        return trained[arguments]

    return train


@pytest.fixture(scope="session")
def lmcl_run(undisturbed) -> Path:
    return undisturbed(*LMCL, "tracking=none")


@pytest.fixture(scope="session")
def baseline_run(undisturbed) -> Path:
    return undisturbed(*BASELINE, "tracking=none")


@pytest.fixture(scope="session")
def alone_run(undisturbed) -> Path:
    return undisturbed(*ALONE, "tracking=none")


@pytest.fixture
def own_copy(tmp_path):
    """own_copy(folder) -> the run in a folder of the same name under tmp_path/runs."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "runs" / folder.name))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An SQLite file with MLflow's schema in it, which takes seconds to make."""
    from mcl_lab.tracking.mlflow import store as mlflow_store

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow_store.MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store(empty_store, tmp_path) -> Store:
    """The store of tracking's default URI, in tmp_path."""
    return Store(Path(shutil.copy(empty_store, tmp_path / "mlflow.db")))


@pytest.fixture
def stopping():
    """stopping(step, *signals): a context in which this process sends itself these signals in that training step."""

    @contextmanager
    def stopping_at(step, *numbers):
        with pytest.MonkeyPatch.context() as patch:
            stop_itself(patch, step, *numbers)
            yield

    return stopping_at


@pytest.fixture(scope="session")
def interrupted_run(tmp_path_factory) -> Path:
    """The run of `lmcl_run` stopped by SIGTERM in step 13, with checkpoints of steps 10 and 13; not to be changed."""
    cwd = tmp_path_factory.mktemp("interrupted")
    arguments = [*LMCL, "tracking=none", "trainer.checkpoint_steps=5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [str(RUN), *arguments])
        stop_itself(patch, 13, signal.SIGTERM)
        assert cli.main(arguments) == 128 + signal.SIGTERM
    return only_folder(cwd)


@pytest.fixture
def other_images(tmp_path):
    """A folder of images of two classes, none of them a digit, that anything tells apart."""
    for part in ("train", "test"):
        for name, grey in (("dark", 20), ("light", 220)):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(12):
                Image.new("RGB", (10, 8), (grey + number, grey, grey)).save(folder / f"{number}.png")
    return tmp_path / "images"
