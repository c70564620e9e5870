"""Sweeps of real runs: what is left of them on disk and in MLflow when runs fail and launchers are stopped or killed."""

import json
import os
import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from training_runs import ALONE, LMCL, assert_same_run, end, start

from mcl_lab.host.files import exclusive

LAUNCH = ["-m", "hydra.launcher.jobs=2"]


def ledger(name, call):
    ended = call("task=sweep", f"task.sweep={name}", "task.format=json")
    assert ended.status == 0, ended.err
    return {run["name"]: run for run in json.loads(ended.out)}


def recorded(cwd):
    """name: (status, parent's name) of every run in MLflow's store."""
    query = """select runs.name, runs.status, parents.name from runs
        left join tags on tags.run_uuid = runs.run_uuid and tags.key = 'mlflow.parentRunId'
        left join runs as parents on parents.run_uuid = tags.value"""
    with closing(sqlite3.connect(Path(cwd, "mlflow.db"), timeout=30)) as database:
        rows = database.execute(query).fetchall()
    assert len({name for name, *_ in rows}) == len(rows)  # nothing is there twice
    return {name: (status, parent) for name, status, parent in rows}


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_run_fails_and_the_others_are_kept(store, tmp_path, call):
    ended = call(*ALONE, *LAUNCH, "sweep=mine", "seed=0", "pair.peers.a.blocks=[1,1,1],[]")
    assert ended.status == 1
    assert (
        ended.err == "mcl_lab: error: 1 of 2 runs of sweep mine are not finished; the same command tries them again\n"
    )
    runs = list(ledger("mine", call).values())
    assert [run["state"] for run in runs] == ["finished", "failed"]
    assert "pair.peers.a: blocks and widths" in runs[1]["detail"]
    assert "failed" in ended.out and "pair.peers.a: blocks" in ended.out
    assert "pair.peers.a: blocks" in Path(tmp_path, runs[1]["log"]).read_text()
    assert recorded(tmp_path) == {"mine": ("FAILED", None), runs[0]["name"]: ("FINISHED", "mine")}

    ended = call(*ALONE, *LAUNCH, "sweep=mine", "seed=0", "pair.peers.a.blocks=[1,1,1]")  # without it
    assert (ended.status, ended.err) == (0, "")
    assert ledger("mine", call)[runs[0]["name"]]["attempts"] == 1  # what was finished was left alone
    assert recorded(tmp_path)["mine"] == ("FINISHED", None)
    table = (tmp_path / "runs/sweeps/mine/table.md").read_text()
    reported = call("task=report", "task.sweep=mine", "task.format=markdown", "task.missing=none")
    assert table == reported.out and "resnet8" in table
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        ((description,),) = database.execute("select value from tags where key = 'mlflow.note.content'").fetchall()
    command, _, below = description.partition("\n\n")
    assert command.startswith("1 runs: `python run.py") and below == table
    assert list(tmp_path.glob("mlartifacts/*/artifacts/table.md"))


def test_a_run_that_was_finished_alone_joins(store, tmp_path, call):
    assert call(*ALONE, "seed=0").status == 0
    assert call(*ALONE, *LAUNCH, "sweep=mine", "seed=0").status == 0
    (name,) = ledger("mine", call)
    assert recorded(tmp_path) == {"mine": ("FINISHED", None), name: ("FINISHED", "mine")}


def test_no_password_is_written_anywhere(tmp_path, call):
    uri = "http://me:HIDDEN@127.0.0.1:9/"  # where nobody answers
    ended = call(*ALONE, *LAUNCH, "sweep=mine", "seed=0", f"tracking.uri={uri}", "tracking.wait=0")
    assert ended.status == 0, ended.err
    assert "HIDDEN" not in ended.out + ended.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"ledger.json", "record.json", "config.yaml"} <= {path.name for path in files}
    assert not [path for path in files if b"HIDDEN" in path.read_bytes()]


@pytest.mark.full
def test_a_folder_of_an_odd_name(tmp_path, call):
    ended = call(*ALONE, *LAUNCH, "sweep=mine", "seed=0", "tracking=none", "hydra.run.dir='a, b=(c)/${run_name:}'")
    assert (ended.status, ended.err) == (0, "")
    assert (tmp_path / "a, b=(c)" / "sweeps" / "mine" / "ledger.json").is_file()
    ended = call("task=sweep", "task.sweep='a, b=(c)/sweeps/mine'")
    assert ended.status == 0 and "finished" in ended.out


@pytest.mark.full
def test_a_sweep_in_a_folder_of_its_own(store, tmp_path, call):
    ended = call(*ALONE, *LAUNCH, "sweep=./mine", "seed=0")
    assert ended.status == 0 and re.search(r"task=report .*\./mine", ended.out)
    ended = call("task=sweep", "task.sweep=./mine", "task.format=json")
    (run,) = json.loads(ended.out)
    assert run["state"] == "finished" and (tmp_path / "mine" / "ledger.json").is_file()
    assert recorded(tmp_path) == {"mine": ("FINISHED", None), run["name"]: ("FINISHED", "mine")}
    assert call("task=report", "task.sweep=./mine").status == 0


def test_a_second_launcher_of_one_sweep_is_turned_away(tmp_path, call):
    Path("runs/sweeps/mine").mkdir(parents=True)
    with exclusive(Path("runs/sweeps/mine/ledger.lock")):
        ended = call(*ALONE, *LAUNCH, "sweep=mine", "tracking=none")
    assert ended.status == 1 and "task=sweep task.sweep=runs/sweeps/mine" in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.full)])
def test_a_stopped_or_killed_launcher_loses_nothing(number, store, tmp_path, call, lmcl_run):
    """Stopped: its runs stop and go on. Killed: its runs go on and are waited for. Either way the bits are the same."""
    arguments = [*LMCL, *LAUNCH, "sweep=mine", "seed=0,1", "trainer.epochs=2"]
    launcher = start(arguments, tmp_path)
    folder = tmp_path / "runs" / lmcl_run.name
    wait_until(lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").stat().st_size)
    os.kill(launcher.pid, number)
    ended = end(launcher)
    if number == signal.SIGINT:
        assert ended.status == 130 and "the same command goes on" in ended.err
        runs = ledger("mine", call)
        assert {run["state"] for run in runs.values()} <= {"waiting", "finished"}, runs
    else:
        assert ended.status == -signal.SIGKILL
    ended = end(start(arguments, tmp_path))
    assert (ended.status, ended.err) == (0, "")
    assert_same_run(folder, lmcl_run)
    runs = ledger("mine", call)
    assert [run["state"] for run in runs.values()] == ["finished"] * 2
    assert recorded(tmp_path) == {"mine": ("FINISHED", None)} | dict.fromkeys(runs, ("FINISHED", "mine"))


@pytest.mark.full
def test_four_runs_at_once_on_a_store_that_does_not_exist(tmp_path, call):
    arguments = [*ALONE, "-m", "hydra.launcher.jobs=4", "sweep=four", "seed=range(4)", "trainer.epochs=2"]
    ended = end(start(arguments, tmp_path), timeout=600)
    assert (ended.status, ended.err) == (0, "")
    runs = ledger("four", call)
    assert len(runs) == 4 and all(run["state"] == "finished" for run in runs.values())
    assert recorded(tmp_path) == {"four": ("FINISHED", None)} | dict.fromkeys(runs, ("FINISHED", "four"))
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        query = "select count(*) from metrics where key = 'test/a/own_head'"
        assert database.execute(query).fetchone() == (8,)


@pytest.mark.full
def test_what_waits_keeps_the_config_that_it_was_launched_with(tmp_path):
    """A YAML file that is edited while a sweep goes on changes none of its runs."""
    folder = tmp_path / "conf" / "optimizer"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.05\n")
    arguments = ["--config-dir=conf", *ALONE, "-m", "hydra.launcher.jobs=1", "sweep=mine", "seed=0,1", "tracking=none"]
    launcher = start([*arguments, "optimizer=mine"], tmp_path)
    wait_until(lambda: list(tmp_path.glob("runs/*/config.yaml")))
    (folder / "mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.06\n")
    ended = end(launcher)
    assert (ended.status, ended.err) == (0, "")
    configs = [path.read_text() for path in tmp_path.glob("runs/*/config.yaml")]
    assert len(configs) == 2 and all("lr: 0.05" in text for text in configs)
