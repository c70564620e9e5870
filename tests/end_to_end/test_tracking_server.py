"""Runs that are recorded by a real MLflow server, which dies, comes back, or comes only when they have ended."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from mlflow_server import MlflowServer, wait_until
from training_runs import ALONE, end, senders_of, start

pytestmark = pytest.mark.full


class Server(MlflowServer):
    def recorded(self) -> dict[str, tuple[str, list[tuple[int, float]]]]:
        """name: (status, (epoch, own head) of every point there is, in order) of every run."""
        runs = self.rows("select run_uuid, name, status from runs")
        points = "select step, value from metrics where run_uuid = ? and key = 'test/a/own_head' order by step"
        found = {name: (status, self.rows(points, run)) for run, name, status in runs}
        assert len(found) == len(runs)  # none is there twice
        return found


@pytest.fixture
def server(empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path / "server.db")
    served = Server(tmp_path)
    yield served
    served.kill()


def journals(cwd: Path) -> dict[str, tuple[str, list[tuple[int, float]]]]:
    """What `Server.recorded` must come to, by the run folders of finished runs."""
    files = list(cwd.glob("runs/*/metrics.jsonl"))
    lines = {file.parent.name: map(json.loads, file.read_text().splitlines()) for file in files}
    return {
        name: ("FINISHED", [(line["epoch"], line["metrics"]["test/a/own_head"]) for line in epochs])
        for name, epochs in lines.items()
    }


def epochs_of(cwd: Path) -> list[int]:
    return [file.read_text().count("\n") for file in cwd.glob("runs/*/metrics.jsonl")]


def test_a_server_killed_in_the_middle_of_three_runs(server, tmp_path):
    server.start()
    arguments = [*ALONE, "trainer.epochs=40", f"tracking.uri={server.uri}"]
    runs = [start([*arguments, f"seed={seed}"], tmp_path) for seed in range(3)]
    wait_until(lambda: len(server.recorded()) == 3 and all(points for _, points in server.recorded().values()))
    server.kill()
    before, at_kill = server.recorded(), sum(epochs_of(tmp_path))
    assert any(status == "RUNNING" for status, _ in before.values())
    wait_until(lambda: sum(epochs_of(tmp_path)) > at_kill + 3 or all(run.poll() is not None for run in runs))
    assert server.recorded() == before
    server.start()
    for ended in map(end, runs):
        assert (ended.status, ended.err) == (0, "")
    expected = journals(tmp_path)
    assert sorted(map(len, (points for _, points in expected.values()))) == [40] * 3
    wait_until(lambda: {status for status, _ in server.recorded().values()} == {"FINISHED"})
    assert server.recorded() == expected


def test_a_server_that_never_came_gets_everything_by_sync(server, tmp_path, call):
    arguments = [*ALONE, "trainer.epochs=3", f"tracking.uri={server.uri}"]
    for ended in map(end, [start([*arguments, f"seed={seed}"], tmp_path) for seed in range(2)]):
        assert (ended.status, ended.err) == (0, "")
        assert "not yet recorded" in ended.out and "task=sync task.runs=runs/" in ended.out
    ended = call("task=sync")
    assert ended.status == 0 and ended.out.count("a sender is at work") == 2
    for process in senders_of(tmp_path):  # as a scheduler does at the end of a job
        os.kill(process, signal.SIGKILL)
    ended = call("task=sync")
    assert ended.status == 1 and ended.err.startswith("mcl_lab: error: 2 of 2 runs could not be delivered")
    server.start()
    ended = call("task=sync")
    assert (ended.status, ended.err) == (0, "") and ended.out.count("delivered to http://") == 2
    assert server.recorded() == journals(tmp_path)
    assert sorted(map(len, (points for _, points in server.recorded().values()))) == [3, 3]
