"""tracking.system: figures of the machine beside those of a run."""

import json
import signal
import sys

import pytest
from mlflow_server import wait_until
from training_runs import ALONE, LMCL, end, only_folder, senders_of, start

from mcl_lab.runs.folders import foreign

POINTS = "select key, value, timestamp, step from metrics where key like 'system/%' order by step, key"


@pytest.mark.parametrize("several", [[], ["-m", "seed=0,1"]])
def test_what_is_not_installed_is_said_before_anything_is_written(several, call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    ended = call(*ALONE, "tracking.system=10", *several)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("mcl_lab: error: tracking.system: needs psutil: ") and ended.err.count("\n") == 1
    assert "pip install -c constraints.txt -e '.[system]'" in ended.err
    assert not list(tmp_path.iterdir())


def test_without_tracking_it_has_no_effect(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    ended = call(*ALONE, "trainer.epochs=1", "tracking=none", "tracking.system=10")
    assert (ended.status, ended.err) == (0, "")
    assert not (only_folder(tmp_path) / "system.jsonl").exists()


@pytest.mark.full
def test_a_run_that_is_stopped_and_goes_on(store, tmp_path, call):
    arguments = [*LMCL, "trainer.epochs=8", "tracking.system=1"]
    process = start(arguments, tmp_path)
    wait_until(lambda: [file for file in tmp_path.glob("runs/*/system.jsonl") if file.read_text().count("\n") >= 2])
    process.send_signal(signal.SIGTERM)
    assert end(process).status == 128 + signal.SIGTERM
    folder = only_folder(tmp_path)
    wait_until(lambda: not senders_of(folder))
    before = (folder / "system.jsonl").read_text()
    assert end(start(arguments, tmp_path)).status == 0
    wait_until(lambda: not senders_of(folder))
    text = (folder / "system.jsonl").read_text()
    assert text.startswith(before) and len(text) > len(before) and (folder / "sender.log").read_text() == ""
    lines = list(map(json.loads, text.splitlines()))
    assert store._rows(POINTS) == [
        (name, line["metrics"][name], line["time_ms"], step)
        for step, line in enumerate(lines, start=1)
        for name in sorted(line["metrics"])
    ]
    assert foreign(folder) == []
    report = call("task=report", "task.format=csv", "task.plots=plots")
    assert report.status == 0 and "system" not in report.out
