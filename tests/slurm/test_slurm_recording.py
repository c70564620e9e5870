"""What many jobs record at once, in a store that is new, dies in the middle, or is never there."""

import sqlite3
import time
from contextlib import closing

import pytest
from desk import LONG, ONE_CORE, Desk
from mlflow_server import MlflowServer
from training_runs import ALONE, epochs

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
    """Four on each GPU, so that none waits for another."""
    words = [*ALONE, "trainer.threads=1", "trainer.epochs=2", "trainer.device=auto"]
    blocker = desk.cluster.submit("sleep 300", "--exclusive", "--nodes=2")
    desk.cluster.wait(blocker, "RUNNING")
    seeds = ",".join(map(str, range(16)))
    packed = ["hydra.launcher.runs_per_gpu=4", "hydra.launcher.cpus=4"]
    assert "16 of 16 runs submitted in 4 jobs" in desk.run(
        *ONE_CORE, *packed, "-m", "sweep=many", *words, f"seed={seeds}"
    )
    desk.cluster.run("scancel", blocker)
    desk.wait_all("many", limit=400)
    desk.wait_recorded()
    assert_whole(desk, "many", desk.folder / "mlflow.db", 16)


@pytest.fixture
def server(desk):
    served = MlflowServer(desk.folder)
    yield served
    served.kill()


def test_the_server_dies_in_the_middle_and_comes_back(desk, server):
    command = [*ONE_CORE, "-m", "sweep=two", *LONG, "seed=0,1", f"tracking.uri={server.uri}", "tracking.wait=5"]
    server.start()
    desk.run(*command)
    desk.wait("two", lambda runs: sum(run["epoch"] for run in runs) >= 3)
    server.kill()
    time.sleep(5)
    server.start()
    standings = desk.wait_all("two", limit=400)
    desk.wait_recorded()
    assert_whole(desk, "two", server.database, 2)
    assert [run["attempts"] for run in standings] == [1] * 2


def test_the_server_never_comes(desk, server):
    """Submitting takes seconds, every run ends well and says what to do, and task=sync delivers everything later."""
    words = [*LONG, "trainer.epochs=2", "seed=0,1", f"tracking.uri={server.uri}", "tracking.wait=5"]
    desk.run(*ONE_CORE, "-m", "sweep=two", *words)
    for run in desk.wait_all("two"):
        assert desk.cluster.record(run["job"])["ExitCode"] == "0:0"
        assert "not yet recorded" in (desk.folder / run["log"]).read_text()
    server.start()
    desk.run("task=sync")
    desk.wait_recorded()
    assert_whole(desk, "two", server.database, 2)
