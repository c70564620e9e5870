"""Samples of the machine: from the sender's thread into the run's folder and on into MLflow, where all else has precedence."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_server import MlflowServer, wait_until

from mcl_lab.runs.journal import Journal
from mcl_lab.tasks.sync import sync
from mcl_lab.tracking import sender, system
from mcl_lab.tracking.delivery import is_delivered, wait_delivered
from mcl_lab.tracking.mlflow import store as mlflow_store
from mcl_lab.tracking.mlflow.reader import MlflowRuns
from mcl_lab.tracking.sender import follow
from mcl_lab.tracking.system import samples_left

USUAL = {"cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage"}
USUAL |= {"disk_usage_percentage", "disk_usage_megabytes", "disk_available_megabytes"}
USUAL |= {"network_receive_megabytes", "network_transmit_megabytes"}


@pytest.fixture
def followed():
    """followed(journal, **options) -> a list that has what `follow` returned, once it has; of this process's run."""
    threads = []

    def start(journal: Journal, pid: int | None = None, **options) -> list[bool]:
        results = []
        options = {"poll": 0.05, "longest_pause": 0.2, "system": 0.2} | options
        journal.status("running")
        threads.append(
            threading.Thread(target=lambda: results.append(follow(journal.folder, pid or os.getpid(), **options)))
        )
        threads[-1].start()
        return results

    yield start
    for thread in threads:
        thread.join(60)


def samples(folder: Path) -> list[dict]:
    file = folder / "system.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def points(lines: list[dict]) -> list[tuple]:
    """What MLflow must hold of them."""
    return sorted(
        (name, value, line["time_ms"], step)
        for step, line in enumerate(lines, start=1)
        for name, value in line["metrics"].items()
    )


def a_sample(number: int, **metrics: float) -> dict:
    return {
        "time_ms": 1_700_000_000_000 + number,
        "metrics": {f"system/{name}": 1.0 * number for name in USUAL} | metrics,
    }


def write(folder: Path, *lines: dict | str) -> None:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "system.jsonl").write_text("".join(f"{text}\n" for text in texts), errors="surrogateescape")


def of_the_machine(run: dict) -> list[tuple]:
    return [point for point in run["metrics"] if point[0].startswith("system/")]


def test_a_run_s_samples_are_in_mlflow_once_and_go_on_when_it_does(store, new_run, stored_runs, followed, epoch):
    journal = new_run(store)
    for before in (0, 3):
        results = followed(journal)
        wait_until(lambda wanted=before + 3: len(samples(journal.folder)) >= wanted)
        if before == 0:
            journal.append(epoch(1))
        journal.status("interrupted" if before == 0 else "finished")
        wait_until(lambda ended=results: ended == [True])
        lines = samples(journal.folder)
        (run,) = stored_runs(store)
        assert of_the_machine(run) == points(lines)
    for line in lines:
        assert {name.removeprefix("system/") for name in line["metrics"]} >= USUAL
    times = [line["time_ms"] for line in lines]
    assert times == sorted(times) and abs(times[-1] / 1000 - time.time()) < 60
    assert any(0 < line["metrics"]["system/cpu_utilization_percentage"] <= 100 for line in lines)

    known = json.loads((journal.folder / "delivery.json").read_text())
    assert known["samples"] == len(lines)
    del known["samples"]  # of an older version
    (journal.folder / "delivery.json").write_text(json.dumps(known))
    mlflow_store.deliver(journal.folder)
    (journal.folder / "delivery.json").unlink()
    mlflow_store.deliver(journal.folder)
    (again,) = stored_runs(store)
    assert again["metrics"] == run["metrics"]
    assert MlflowRuns(store, "a study").epochs(run["id"], lambda name: True) == [
        {"epoch": 1, "metrics": epoch(1)["metrics"]}
    ]


def test_a_record_that_moves_takes_its_samples_along(store, empty_store, new_run, record, stored_runs, tmp_path):
    journal = new_run(store)
    journal.status("finished")
    write(journal.folder, a_sample(1), a_sample(2))
    assert mlflow_store.deliver(journal.folder)
    shutil.copy(empty_store, tmp_path / "other.db")
    journal.begin(record(f"sqlite:///{tmp_path}/other.db"))
    assert mlflow_store.deliver(journal.folder)
    (run,) = stored_runs(f"sqlite:///{tmp_path}/other.db")
    assert run["metrics"] == points([a_sample(1), a_sample(2)])


def test_damaged_lines_are_passed_over(store, new_run, stored_runs, followed):
    journal = new_run(store)
    bad = {
        "system/nan": float("nan"),
        "system/huge": 10**400,
        "system/../up": 1.0,
        "final/a": 99.0,
        "train/loss": 1.0,
        "system/yes": True,
    }
    text = json.dumps(a_sample(4))
    damaged = ["", "{}", "[" * 100_000, "\udcff" + text, text[:50], json.dumps(a_sample(4) | {"time_ms": -1})]
    damaged += [
        json.dumps(a_sample(4) | {"metrics": {"system/a": "much"}}),
        json.dumps(a_sample(4) | {"time_ms": True})[:-9],
    ]
    write(journal.folder, a_sample(1), *damaged, a_sample(2, **bad))
    with open(journal.folder / "system.jsonl", "a") as file:
        file.write(text[:-5])  # by a sender that was killed
    results = followed(journal)
    wait_until(lambda: (journal.folder / "system.jsonl").read_bytes().count(b"\n") >= len(damaged) + 4)
    journal.status("finished")
    wait_until(lambda: results == [True])
    (run,) = stored_runs(store)
    lines = (journal.folder / "system.jsonl").read_text(errors="replace").splitlines()
    by_number = {1: a_sample(1), len(damaged) + 2: a_sample(2)}
    by_number |= {number: json.loads(lines[number - 1]) for number in range(len(damaged) + 4, len(lines) + 1)}
    expected = {(name, line["time_ms"], number) for number, line in by_number.items() for name in line["metrics"]}
    assert {(name, time_ms, step) for name, _, time_ms, step in run["metrics"]} == expected
    assert is_delivered(journal.folder) and not samples_left(journal.folder)


def test_many_samples_are_few_requests_and_none_is_sent_twice(store, new_run, stored_runs, monkeypatch):
    journal = new_run(store)
    journal.status("running")
    lines = [a_sample(number) for number in range(1, 401)]
    write(journal.folder, *lines)
    sent, log_batch = [], MlflowClient.log_batch

    def counted(client, run_id, metrics=(), **others):
        if metrics and len(sent) == 2:
            sent.append(0)
            raise ConnectionError("gone")
        if metrics:
            sent.append(len(metrics))
        return log_batch(client, run_id, metrics, **others)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    monkeypatch.setattr(mlflow_store, "SAMPLES_FIRST", 3600.0)  # however slow this machine is
    with pytest.raises(ConnectionError):
        mlflow_store.deliver(journal.folder)
    mlflow_store.deliver(journal.folder)
    assert sent == [1000, 1000, 0, 1000, 200]
    (run,) = stored_runs(store)
    assert run["metrics"] == points(lines)


def test_a_store_that_refuses_samples_has_all_the_rest(
    store, new_run, stored_runs, followed, epoch, monkeypatch, capsys
):
    journal = new_run(store)
    log_batch = MlflowClient.log_batch

    def refusing(client, run_id, metrics=(), **others):
        if any(metric.key.startswith("system/") for metric in metrics):
            raise ConnectionError("413: too large")
        return log_batch(client, run_id, metrics, **others)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", refusing)
        results = followed(journal)
        wait_until(lambda: samples(journal.folder))
        journal.append(epoch(1))
        journal.status("finished")
        assert wait_delivered(journal.folder, 60)
        wait_until(lambda: results == [True])
        sync(None, runs=str(journal.folder))  # raises nothing
        (line,) = capsys.readouterr().out.splitlines()[-1:]
        assert line.startswith(f"{journal.folder}: delivered to {store}, but for metrics of the machine: ")
        assert "413" in line
    (run,) = stored_runs(store)
    assert (run["status"], len(run["metrics"])) == ("FINISHED", 2)
    sync(None, runs=str(journal.folder))
    (run,) = stored_runs(store)
    assert of_the_machine(run) == points(samples(journal.folder))
    sync(None, runs=str(journal.folder))
    assert "already in" in capsys.readouterr().out.splitlines()[-1]


def missing(patch, folder):
    patch.setitem(sys.modules, "mlflow.system_metrics.metrics.cpu_monitor", None)


def broken(patch, folder):
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor

    patch.setattr(DiskMonitor, "collect_metrics", lambda monitor: 1 / 0)


def full(patch, folder):
    (folder / "system.jsonl").symlink_to("/dev/full")


def a_folder(patch, folder):
    (folder / "system.jsonl").mkdir()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (missing, "ModuleNotFoundError"),
        (broken, "ZeroDivisionError"),
        (full, "No space left"),
        (a_folder, "Is a directory"),
    ],
)
def test_what_fails_is_said_once_and_costs_the_run_nothing(
    fault, said, store, new_run, stored_runs, followed, epoch, monkeypatch, capsys
):
    journal = new_run(store)
    with monkeypatch.context() as patch:
        fault(patch, journal.folder)
        results = followed(journal)
        journal.append(epoch(1))
        time.sleep(1)
        journal.status("finished")
        wait_until(lambda: results == [True])
    (line,) = capsys.readouterr().out.splitlines()
    assert "system metrics: " in line and said in line
    (run,) = stored_runs(store)
    assert run["status"] == "FINISHED" and len(run["metrics"]) - len(of_the_machine(run)) == 2
    if fault is broken:  # the others go on
        assert {name for name, *_ in of_the_machine(run)} == {f"system/{name}" for name in USUAL if "disk" not in name}


def test_sampling_goes_on_while_a_store_is_slow_and_ends_with_the_run(new_run, followed, monkeypatch):
    journal, let_go = new_run("sqlite:///nowhere.db"), threading.Event()
    monkeypatch.setattr(sender, "load_deliver", lambda longest: lambda folder, **_: let_go.wait(60))
    monkeypatch.setattr(sender, "is_delivered", lambda *_, **__: let_go.is_set())
    monkeypatch.setattr(sender, "samples_left", lambda folder: False)
    monkeypatch.setattr(system, "POLL", 0.1)
    results = followed(journal)
    wait_until(lambda: len(samples(journal.folder)) >= 3)
    journal.status("finished")
    wait_until(lambda: "sampler" not in {thread.name for thread in threading.enumerate()})
    let_go.set()
    wait_until(lambda: results == [True])


def test_sampling_ends_with_a_process_that_vanishes(store, new_run, stored_runs, followed, signed_by):
    journal = new_run(store)
    process = subprocess.Popen(["sleep", "600"])
    journal.status = lambda state: (
        Journal.status(journal, state) or signed_by(journal.folder, pid=process.pid, process_start=None)
    )
    results = followed(journal, pid=process.pid)
    wait_until(lambda: samples(journal.folder))
    process.kill()
    process.wait()
    wait_until(lambda: results == [True])
    (run,) = stored_runs(store)
    assert run["status"] == "FAILED" and run["metrics"] == points(samples(journal.folder))


def test_the_end_of_a_run_waits_for_no_sample(store, new_run, followed, monkeypatch):
    journal = new_run(store)
    monkeypatch.setattr(system, "LEAST", 0.1)
    results = followed(journal, system=3600.0)
    wait_until(lambda: (journal.folder / "delivery.json").exists())
    time.sleep(1.2)
    start = time.monotonic()
    journal.status("finished")
    wait_until(lambda: results == [True])
    assert time.monotonic() - start < 30
    assert len(samples(journal.folder)) == 1 and not samples_left(journal.folder)  # the run is not without any


@pytest.mark.full
def test_a_server_that_was_away_gets_all_samples_by_sync(new_run, stored_runs, empty_store, followed, epoch, tmp_path):
    server = MlflowServer(tmp_path)
    shutil.copy(empty_store, server.database)
    journal = new_run(server.uri)
    results = followed(journal, after_end=0.5)
    journal.append(epoch(1))
    wait_until(lambda: len(samples(journal.folder)) >= 5)
    journal.status("finished")
    wait_until(lambda: results == [False])
    server.start()
    try:
        sync(None, runs=str(journal.folder))
    finally:
        server.kill()
    (run,) = stored_runs(f"sqlite:///{server.database}")
    assert run["status"] == "FINISHED" and of_the_machine(run) == points(samples(journal.folder))
