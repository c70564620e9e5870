"""Variables that a person has preset for commands of SLURM typed by hand: a sweep is submitted, goes on, is looked at and
cancelled as without them, from the shell and from inside another job."""

import json
import shlex
from pathlib import Path

import pytest
from desk import LONG, ONE_CORE, Desk
from slurm_variables import VARIABLES
from training_runs import RUN

pytestmark = pytest.mark.full


@pytest.fixture
def desk(cluster, tmp_path):
    desk = Desk(tmp_path, cluster)
    desk.environment |= VARIABLES | {"PYTHONPATH": str(RUN.parent)}
    (tmp_path / "rc").write_text("export SQUEUE_STATES=PENDING SLURM_TIMELIMIT=1 SLURM_EXPORT_ENV=NONE\n")
    return desk


def in_shell(desk, *arguments):
    desk.run(*arguments)


def in_job(desk, *arguments):
    """Of a job that differs from ours in all that a job may ask for."""
    command = shlex.join([desk.python, str(RUN), *arguments])
    presets = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in VARIABLES.items())
    asked = ["--gres=gpu:2", "--mem-per-cpu=200", "--ntasks=2", "--hint=nomultithread", "--time=30", "--overcommit"]
    script = f"{presets}\nexport PYTHONPATH={RUN.parent}\ncd {desk.folder}\n{command}"
    job = desk.cluster.submit(script, f"--output={desk.folder}/outer.txt", *asked)
    assert desk.cluster.wait(job) == "COMPLETED", (desk.folder / "outer.txt").read_text()


@pytest.mark.parametrize("submit", [in_shell, in_job])
def test_nothing_is_spoiled(submit, desk):
    setup = f"hydra.launcher.setup=['source {desk.folder}/rc']"  # as for conda
    submit(desk, *ONE_CORE, "-m", "sweep=one", *LONG, setup)
    (run,) = desk.wait("one", lambda runs: runs[0]["state"] == "running" and runs[0]["epoch"] >= 1)
    process = json.loads((desk.folder_of(run) / "status.json").read_text())["pid"]
    words = Path(f"/proc/{process}/environ").read_text().split("\0")
    preset = {f"{name}={value}" for name, value in VARIABLES.items()} - {"SLURM_NNODES=1", "SLURM_JOB_NUM_NODES=1"}
    own = {f"SLURM_{name}=1" for name in ("NTASKS", "NPROCS", "GPUS_ON_NODE", "CPUS_ON_NODE")}  # as our job has them
    sourced = {"SQUEUE_STATES=PENDING", "SLURM_EXPORT_ENV=NONE", "SLURM_TIMELIMIT=1"}
    assert set(words) & preset <= own | sourced
    job = desk.cluster.run("scontrol", "show", "job", run["job"])
    assert "TimeLimit=1-00:00:00" in job and "NumNodes=1 " in job and "Requeue=1" in job
    assert desk.cluster.run("squeue", "-h", "--steps", "-o", "%l", "-j", run["job"]).split("\n")[0] == "UNLIMITED"
    desk.cluster.run("scancel", "--signal=USR2", run["job"])
    (run,) = desk.wait("one", lambda runs: runs[0]["attempts"] == 2)
    desk.run("task=sweep", "task.sweep=one", "task.action=cancel")
    desk.wait("one", lambda runs: runs[0]["state"] == "cancelled")
    desk.wait_for_queue()
