"""Networks as models in MLflow: loadable where mcl_lab is not, the same as they were trained."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from mlflow import MlflowClient
from training_runs import LMCL, only_folder

import mcl_lab

ELSEWHERE = """
import sys, mlflow, torch
network = mlflow.pytorch.load_model(sys.argv[1])
torch.save([network(torch.load("images.pt")[:count]) for count in (1, 7)], "logits.pt")
assert not [name for name in sys.modules if name.startswith("mcl_lab")]
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder for one run, which the tests of this file go on with."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def run_main(shared, call, monkeypatch):
    def run_main(*arguments):
        monkeypatch.chdir(shared)
        return call(*arguments)

    return run_main


def models(shared):
    client = MlflowClient(tracking_uri=f"sqlite:///{shared}/mlflow.db")
    return {model.name: model for model in client.search_logged_models(["1"])}


def test_at_the_end_of_a_run(shared, run_main, tmp_path):
    ended = run_main(*LMCL, "trainer.epochs=1", "tracking.models=true")
    assert (ended.status, ended.err) == (0, "")
    logged = models(shared)
    assert set(logged) == {"a-resnet8", "b-resnet8"}, ended.out
    folder = only_folder(shared)
    delivered = json.loads((folder / "delivery.json").read_text())
    assert {model.source_run_id for model in logged.values()} == {delivered["mlflow_run"]}

    (address,) = re.findall(r"model of b +mlflow.pytorch.load_model\('(.*)'\)", ended.out)
    assert address == logged["b-resnet8"].model_uri
    images = torch.rand(7, 3, 8, 8)
    torch.save(images, tmp_path / "images.pt")
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{shared}/mlflow.db"}
    subprocess.run([sys.executable, "-I", "-c", ELSEWHERE, address], cwd=tmp_path, env=environment, check=True)
    expected = mcl_lab.load(folder, "b")(images)
    for logits, count in zip(torch.load(tmp_path / "logits.pt"), (1, 7), strict=True):
        torch.testing.assert_close(logits, expected[:count], rtol=0, atol=1e-5)


def test_again_changes_nothing(shared, run_main):
    before = {name: model.model_id for name, model in models(shared).items()}
    folder = only_folder(shared).relative_to(shared)
    ended = run_main(
        "task=export", f"task.checkpoint={folder}", "task.formats=[]", "task.mlflow=true", "task.format=json"
    )
    assert (ended.status, ended.err) == (0, "")
    assert list(json.loads(ended.out)["models"]) == ["a", "b"]
    assert {name: model.model_id for name, model in models(shared).items()} == before
    assert not (only_folder(shared) / "export").exists()


def test_what_is_not_recorded_cannot_be_logged(call, own_copy, lmcl_run):
    folder = own_copy(lmcl_run)
    ended = call("task=export", f"task.checkpoint={folder}", "task.formats=[]", "task.mlflow=true", "task.images=0")
    assert ended.status == 1 and ended.err.count("\n") == 1
    assert "is not recorded in MLflow" in ended.err
