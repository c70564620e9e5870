"""Jobs that are stopped, requeued or killed in every way that SLURM has: each run goes on by itself, to the same bits."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from desk import LONG, Desk
from training_runs import assert_same_run, end, only_folder, start

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert end(start(LONG, folder)).status == 0
    return only_folder(folder)


def scancel_usr2(desk, run):
    desk.cluster.run("scancel", "--signal=USR2", run["job"])


def requeue(desk, run):
    desk.cluster.run("scontrol", "requeue", run["job"])


def kill_training(desk, run):
    os.kill(json.loads((desk.folder_of(run) / "status.json").read_text())["pid"], signal.SIGKILL)


def kill_supervisor(desk, run):
    subprocess.run(["pkill", "-KILL", "-f", f"submitit.core._submit {desk.folder}"], check=True)


def kill_all(desk, run):
    """As the kernel does for a job that takes too much memory."""
    kill_supervisor(desk, run)
    kill_training(desk, run)


def down(desk, run):
    node = desk.cluster.run("squeue", "-h", "-o", "%N", "-j", run["job"])
    desk.cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")


@pytest.mark.parametrize("disturb", [scancel_usr2, requeue, kill_training, kill_supervisor, kill_all, down])
def test_it_goes_on_to_the_same_bits(disturb, cluster, tmp_path, undisturbed):
    desk = Desk(tmp_path, cluster)
    desk.submit("one", *LONG)
    (run,) = desk.wait("one", lambda runs: runs[0]["state"] == "running" and runs[0]["epoch"] >= 1)
    disturb(desk, run)
    (run,) = desk.wait_all("one")
    assert_same_run(desk.folder_of(run), undisturbed)
    assert cluster.wait(run["job"]) == "COMPLETED"  # the accounting is a moment later than the queue
    if disturb is not kill_supervisor:  # which the run may outlive
        assert run["attempts"] == 2


def test_a_time_limit(cluster, tmp_path):
    """SLURM counts in minutes and warns up to half a minute early: a run of a minute is warned."""
    longer = [*LONG, "pair.peers.a._target_=sleepy.SleepyResNet"]
    desk = Desk(tmp_path, cluster)
    desk.environment |= {"MCL_LAB_PLUGINS": "sleepy", "PYTHONPATH": str(Path(__file__).parent), "ASLEEP": "0.3"}
    desk.submit("one", *longer, "hydra.launcher.time=1", "hydra.launcher.warning=30")
    (run,) = desk.wait("one", lambda runs: runs[0]["attempts"] >= 2)
    cluster.run(
        "scontrol", "update", f"jobid={run['job']}", "timelimit=30", check=False
    )  # else a slow machine needs too many
    (run,) = desk.wait_all("one", limit=400)
    assert run["attempts"] >= 2
    assert "stopped by SIGUSR2" in (tmp_path / f"runs/sweeps/one/jobs/{run['job']}_0_log.err").read_text()
    alone = tmp_path / "alone"
    alone.mkdir()
    assert end(start(longer, alone, env=desk.environment | {"ASLEEP": "0"})).status == 0
    assert_same_run(desk.folder_of(run), only_folder(alone))


def test_preemption(cluster, tmp_path, undisturbed):
    """A job of more importance takes the node; the run saves its state in the time of grace."""
    desk = Desk(tmp_path, cluster)
    desk.submit("one", *LONG, "hydra.launcher.partition=low", "trainer.device=auto", "hydra.launcher.gpus=2")
    (run,) = desk.wait("one", lambda runs: runs[0]["state"] == "running" and runs[0]["epoch"] >= 1)
    urgent = cluster.submit("sleep 3", "--partition=high", "--gres=gpu:2", "--nodes=2", "--ntasks-per-node=1")
    cluster.wait(urgent)
    (run,) = desk.wait_all("one")
    assert run["attempts"] == 2
    assert "stopped by SIGTERM" in (tmp_path / f"runs/sweeps/one/jobs/{run['job']}_0_log.err").read_text()
    assert_same_run(desk.folder_of(run), undisturbed)


def test_requeues_are_counted(cluster, tmp_path):
    desk = Desk(tmp_path, cluster)
    desk.submit("one", *LONG, "hydra.launcher.requeues=0")
    (run,) = desk.wait("one", lambda runs: runs[0]["state"] == "running" and runs[0]["epoch"] >= 1)
    scancel_usr2(desk, run)
    (run,) = desk.wait("one", lambda runs: runs[0]["state"] == "failed")
    assert "not requeued any more" in run["detail"] and run["attempts"] == 1
    desk.wait_for_queue()
    assert "1 of 1 runs submitted" in desk.run("task=sweep", "task.sweep=one", "task.action=resubmit")
    (run,) = desk.wait_all("one")
    assert run["attempts"] == 2


def test_one_of_an_array_goes_on_and_the_others_are_left_alone(cluster, tmp_path):
    """The last one to start has the array's own number for SLURM, which means all of them where a job is asked for."""
    desk = Desk(tmp_path, cluster)
    desk.submit("three", *LONG, "trainer.epochs=30", "seed=0,1,2")
    standings = desk.wait("three", lambda runs: [run["state"] for run in runs] == ["running"] * 3)
    last = standings[-1]
    number = cluster.run("squeue", "-h", "-r", "-o", "%A", "-j", last["job"]).strip()
    assert number == last["job"].partition("_")[0]
    desk.wait("three", lambda runs: runs[-1]["epoch"] >= 1)
    scancel_usr2(desk, last)
    desk.wait("three", lambda runs: runs[-1]["state"] == "queued")
    restarts = cluster.run("squeue", "-h", "-r", "-O", "jobarrayid,restartcnt").split()
    assert dict(zip(restarts[::2], restarts[1::2], strict=True)) == {
        run["job"]: str(int(run is last)) for run in standings
    }
    desk.run("task=sweep", "task.sweep=three", "task.action=cancel")
    desk.wait_for_queue()
