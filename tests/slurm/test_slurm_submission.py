"""Submissions from folders of odd names, and sbatch that leaves open whether SLURM has taken the jobs."""

import os
import shutil

import pytest
from desk import ONE_CORE, Desk
from training_runs import BASELINE

pytestmark = pytest.mark.full
SHORT = [*BASELINE, "tracking=none", "trainer.max_steps=1"]


def test_a_percent_sign_that_says_nothing_to_slurm(cluster, tmp_path):
    """As an array and alone; what is printed is where it is said to be, and nothing is made elsewhere."""
    folder = tmp_path / "50% off, 5%done 'q\" 100%"
    folder.mkdir()
    desk = Desk(folder, cluster)
    desk.submit("two", *SHORT, "seed=0,1")
    desk.submit("one", *SHORT, "seed=2")
    for name, number in (("two", 2), ("one", 1)):
        jobs = folder / "runs/sweeps" / name / "jobs"
        for run in desk.wait_all(name):
            assert "Starting with" in (jobs / f"{run['job']}_0_log.out").read_text()
        assert len(list(jobs.glob("*_log.*"))) == 2 * number
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("name", "environment", "said"),
    [
        ("10%a", {}, "hydra/launcher: the path '"),
        ("back\\slash", {}, "hydra/launcher: the path '"),
        ("plain", {"SLURM_CLUSTERS": "far"}, "SLURM_CLUSTERS: jobs go to the cluster of this machine, not to far"),
    ],
)
def test_where_jobs_would_get_lost(name, environment, said, cluster, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    desk = Desk(folder, cluster)
    desk.environment |= environment
    ended = desk.call(*ONE_CORE, "-m", "sweep=one", *SHORT)
    assert ended.status == 2 and said in ended.err and ended.err.count("\n") == 1, ended
    assert list(folder.iterdir()) == [] and cluster.jobs() == []


def test_sbatch_is_not_answered_in_time(cluster, tmp_path):
    """The jobs are in the queue all the same, and a person is told."""
    (controller,) = (process for name, process in cluster._daemons().items() if name == "slurmctld")
    slow = tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    sbatch = shutil.which("sbatch")
    slow.write_text(f'#!/bin/bash\nkill -STOP {controller}\n{sbatch} "$@"\ns=$?\nkill -CONT {controller}\nexit $s\n')
    slow.chmod(0o755)
    desk = Desk(tmp_path, cluster)
    desk.environment |= {"PATH": f"{slow.parent}{os.pathsep}{desk.environment['PATH']}"}
    ended = desk.call(*ONE_CORE, "-m", "sweep=one", *SHORT, "hydra.launcher.sbatch=[--hold]")
    assert ended.status == 1 and "timed out" in ended.err and ended.err.count("\n") == 1, ended
    assert "may be there" in ended.err and "squeue --me --name=mcl-one" in ended.err
    assert [run["state"] for run in desk.standings("one")] == ["waiting"]
    (job,) = desk.cluster.poll(desk.cluster.jobs, "the job that SLURM has taken")
    assert desk.cluster.run("squeue", "-h", "--me", "--name=mcl-one", "-o", "%i") == job
    desk.cluster.run("scancel", job)
    desk.wait_for_queue()
