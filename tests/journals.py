"""Fixtures of run folders with a journal, for the tests of several rooms."""

import json
from pathlib import Path

import pytest

from mcl_lab.runs.journal import Journal


@pytest.fixture
def new_run(tmp_path):
    """new_run(uri, name, **of_the_record) -> Journal of a run that has just begun, in a folder of its own."""

    def new(uri: str | None, name: str = "run", **of_the_record) -> Journal:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed: 0\n")
        (folder / "run.log").write_text("trained\n")
        journal = Journal(folder)
        journal.begin(a_record(uri, name) | of_the_record)
        return journal

    return new


def a_record(uri: str | None, name: str = "run") -> dict:
    return {
        "run_key": "0f" * 32,
        "name": name,
        "uri": uri,
        "experiment": "a study",
        "params": {"pair": "resnet8", "seed": "0"},
        "tags": {"loss": "lmcl", "git_commit": "abc"},
    }


def an_epoch(epoch: int, **metrics: float) -> dict:
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "time_ms": 1_700_000_000_000 + epoch,
        "metrics": {"train/loss": 1 / epoch, "test/a/own_head": 50.0 + epoch, **metrics},
    }


@pytest.fixture
def signed_by():
    """signed_by(folder, **changes): let the status look as if another process had written it."""

    def sign(folder: Path, **changes) -> None:
        path = folder / "status.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return sign


@pytest.fixture
def epoch():
    return an_epoch


@pytest.fixture
def record():
    return a_record
