"""What many jobs record at once, in a store that is new, dies in the middle, or is never there."""

import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager

import pytest
from desk import LONG, ONE_CORE, Desk
from runs import ALONE, epochs

pytestmark = pytest.mark.full


@pytest.fixture
def desk(cluster, tmp_path):
    return Desk(tmp_path, cluster)


def recorded(database):
    """Of each MLflow run its name, its status, and the steps of one of its metrics, repetitions too."""
    with closing(sqlite3.connect(database)) as store:
        runs = store.execute("SELECT run_uuid, name, status FROM runs").fetchall()
        steps = "SELECT step FROM metrics WHERE run_uuid = ? AND key = 'train/loss' ORDER BY step"
        return [(name, status, [step for (step,) in store.execute(steps, (run,))]) for run, name, status in runs]


def assert_whole(desk, name, database, runs):
    """Every epoch of every run once, below one parent, all finished."""
    found = recorded(database)
    assert len(found) == runs + 1
    assert {status for _, status, _ in found} == {"FINISHED"}
    for run in desk.standings(name):
        journal = [record["epoch"] for record in epochs(desk.folder_of(run))]
        assert [steps for other, _, steps in found if other == run["name"]] == [journal]
    with closing(sqlite3.connect(database)) as store:
        parents = store.execute("SELECT value FROM tags WHERE key = 'mlflow.parentRunId'").fetchall()
    assert len(parents) == runs and len(set(parents)) == 1


def test_sixteen_start_at_once_on_a_store_that_is_not_there(desk):
    """Two on each GPU, so that none waits for another."""
    words = [*ALONE, "trainer.threads=1", "trainer.epochs=2", "trainer.device=auto"]
    blocker = desk.cluster.submit("sleep 300", "--exclusive", "--nodes=2")
    desk.cluster.wait(blocker, "RUNNING")
    seeds = ",".join(map(str, range(16)))
    packed = ["hydra.launcher.runs_per_gpu=4", "hydra.launcher.cpus=4"]
    assert "16 of 16 runs submitted in 4 jobs" in desk.run(*ONE_CORE, *packed, "-m", "sweep=many", *words, f"seed={seeds}")
    desk.cluster.run("scancel", blocker)
    desk.wait_all("many", limit=400)
    desk.wait_recorded()
    assert_whole(desk, "many", desk.folder / "mlflow.db", 16)


@contextmanager
def server(folder, port):
    """A real tracking server on a database in `folder`, killed at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with open(folder / "server.log", "ab") as log:
        process = subprocess.Popen(
            [*command, "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "art")],
            cwd=folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        until = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, (folder / "server.log").read_text()
                time.sleep(0.3)
        yield
    finally:
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)])
        process.wait()


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_server_dies_in_the_middle_and_comes_back(desk, port):
    command = [*ONE_CORE, "-m", "sweep=four", *LONG, "seed=0,1,2,3", f"tracking.uri=http://127.0.0.1:{port}", "tracking.wait=5"]
    with server(desk.folder, port):
        desk.run(*command)
        desk.wait("four", lambda runs: sum(run["epoch"] for run in runs) >= 6)
    time.sleep(5)
    with server(desk.folder, port):
        standings = desk.wait_all("four", limit=400)
        desk.wait_recorded()
    assert_whole(desk, "four", desk.folder / "server.db", 4)
    assert [run["attempts"] for run in standings] == [1] * 4


def test_the_server_never_comes(desk, port):
    """Submitting takes seconds, every run ends well and says what to do, and task=sync delivers everything later."""
    words = [*LONG, "trainer.epochs=2", "seed=0,1", f"tracking.uri=http://127.0.0.1:{port}", "tracking.wait=5"]
    desk.run(*ONE_CORE, "-m", "sweep=two", *words)
    for run in desk.wait_all("two"):
        assert desk.cluster.record(run["job"])["ExitCode"] == "0:0"
        assert "not yet recorded" in (desk.folder / run["log"]).read_text()
    with server(desk.folder, port):
        desk.run("task=sync")
        desk.wait_recorded()
    assert_whole(desk, "two", desk.folder / "server.db", 2)
