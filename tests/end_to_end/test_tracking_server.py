"""Runs that are recorded by a real MLflow server, which dies, comes back, or comes only when they have ended."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from runs import ALONE, end, start

pytestmark = pytest.mark.full
SECONDS = 240  # more than anything here takes on a busy machine


def wait_until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


class Server:
    """`mlflow server` by an SQLite file in `folder`, which can be killed and started again."""

    def __init__(self, folder: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri, self.folder, self._process = f"http://127.0.0.1:{self.port}", folder, None

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--port", str(self.port), "--workers", "2"]
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", self.port)) == 0)

    def kill(self):
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def recorded(self) -> dict[str, tuple[str, list[tuple[int, float]]]]:
        """name: (status, (epoch, own head) of every point there is, in order) of every run."""
        with closing(sqlite3.connect(self.folder / "server.db", timeout=30)) as database:
            runs = database.execute("select run_uuid, name, status from runs").fetchall()
            points = "select step, value from metrics where run_uuid = ? and key = 'test/a/own_head' order by step"
            found = {name: (status, database.execute(points, [run]).fetchall()) for run, name, status in runs}
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
    arguments = [*ALONE, "trainer.epochs=60", f"tracking.uri={server.uri}"]
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
    assert sorted(map(len, (points for _, points in expected.values()))) == [60] * 3
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


def senders_of(cwd: Path) -> list[int]:
    """The senders of the runs in `cwd`, by their command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"mcl_lab.tracking.sender" in words and any(word.startswith(os.fsencode(cwd) + b"/") for word in words):
            found.append(int(process.name))
    return found
