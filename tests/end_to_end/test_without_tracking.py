"""Runs whose tracking server is away, and runs without MLflow."""

import json
import os
import re
import socket

import pytest
from training_runs import ALONE, BASELINE, assert_same_run, end, only_folder, start


@pytest.fixture
def closed_port():
    with socket.socket() as taken:  # bound and not listening: nobody answers, and nobody else gets it
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_the_server_is_away(call, closed_port, baseline_run, tmp_path):
    ended = call(*BASELINE, f"tracking.uri=http://127.0.0.1:{closed_port}")
    assert (ended.status, ended.err) == (0, "")
    folder = only_folder(tmp_path)
    assert_same_run(folder, baseline_run)
    (line,) = re.findall(r"^not yet recorded .*$", ended.out, re.MULTILINE)
    assert line.endswith(f"run.py task=sync task.runs=runs/{folder.name}")
    assert json.loads((folder / "record.json").read_text())["uri"] == f"http://127.0.0.1:{closed_port}"


def test_without_mlflow_installed(baseline_run, tmp_path):
    """Every import of it fails here, in this process and in those it might start."""
    for name in ("mlflow", "sqlalchemy"):
        (tmp_path / "blocked" / name).mkdir(parents=True)
        (tmp_path / "blocked" / name / "__init__.py").write_text(f"raise ImportError('no {name} here')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "blocked")}
    ended = end(start([*BASELINE, "tracking=none"], tmp_path, env=environment))
    assert (ended.status, ended.err) == (0, "")
    folder = only_folder(tmp_path)
    assert_same_run(folder, baseline_run)
    assert not list(tmp_path.rglob("mlflow.db")) and not (folder / "sender.log").exists()
    assert "MLflow" not in ended.out and "not yet recorded" not in ended.out


def test_the_training_process_never_imports_mlflow(store, tmp_path):
    """It is recorded all the same, by the sender."""
    ended = end(start(BASELINE, tmp_path, python=["-X", "importtime"]))
    assert ended.status == 0
    imported = {line.split("|")[-1].strip().partition(".")[0] for line in ended.err.splitlines()}
    assert "torch" in imported and not imported & {"mlflow", "sqlalchemy", "submitit"}
    assert [status for status, _ in store.runs()] == ["FINISHED"]
    assert re.search(r"^MLflow UI +\S*mlflow ui --backend-store-uri \S+$", ended.out, re.MULTILINE)


def test_a_database_on_a_network_file_system_is_warned_about(call, store, tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"25 1 254:0 / / rw - ext4 /dev/vda rw\n26 25 0:40 / {tmp_path} rw - nfs4 server:/export rw\n")
    monkeypatch.setattr("mcl_lab.host.uri.MOUNTS", mounts)
    ended = call(*ALONE, "trainer.epochs=1")
    assert ended.status == 0
    (warning,) = ended.err.splitlines()
    assert "mlflow.db is on a network file system (nfs4)" in warning and "tracking.uri=http://HOST:PORT" in warning
    assert warning in (only_folder(tmp_path) / "run.log").read_text()
    assert [status for status, _ in store.runs()] == ["FINISHED"]


def test_a_database_without_a_server_is_warned_about(call, tmp_path):
    ended = call(*ALONE, "trainer.epochs=1", "tracking.uri=postgresql://127.0.0.1:1/runs", "tracking.wait=0")
    (warning,) = ended.err.splitlines()
    assert ended.status == 0 and warning.startswith(
        "tracking.uri: without a server the artifacts of all runs go to mlruns/"
    )
    assert warning in (only_folder(tmp_path) / "run.log").read_text()
