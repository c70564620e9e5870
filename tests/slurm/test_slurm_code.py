"""What jobs run: the code as it was when they were submitted, packed or alone, and on no GPU that they did not ask for."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from desk import LONG, ONE_CORE, Desk
from training_runs import BASELINE, RUN, Ended

pytestmark = pytest.mark.full
HOUSE = RUN.parent


def test_the_code_as_it_was_when_submitted(cluster, tmp_path):
    """In a copy of the house, whose network, pair and YAML file are changed while the job waits."""
    house = tmp_path / "house"
    for part in ("conf", "mcl_lab", "sweeps"):
        shutil.copytree(HOUSE / part, house / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(RUN, house)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(house)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    network = house / "mcl_lab" / "networks" / "resnet.py"
    network.write_text(network.read_text() + "\nNOTE = 'changed before submission'\n")

    desk = Desk(tmp_path, cluster)
    blocker = cluster.submit("sleep 300", "--exclusive", "--nodes=2")
    cluster.wait(blocker, "RUNNING")

    def call(*arguments):
        words = [desk.python, str(house / "run.py"), *arguments]
        done = subprocess.run(words, cwd=tmp_path, env=desk.environment, capture_output=True, text=True, timeout=120)
        return Ended(done.returncode, done.stdout, done.stderr)

    command = [*ONE_CORE, "-m", "sweep=old", *BASELINE, "tracking=none", "seed=0,1"]
    assert "2 of 2 runs submitted" in call(*command).out
    network.write_text("raise SystemExit('the new code')\n")
    (house / "conf" / "loss" / "baseline.yaml").write_text("name: new\n")
    cluster.run("scancel", blocker)
    standings = desk.wait_all("old")

    (code,) = (tmp_path / "runs/sweeps/old/code").iterdir()
    assert "changed before submission" in (code / "changes.diff").read_text()
    assert json.loads((code / "snapshot.json").read_text())["commit"] == f"{commit}+changes"
    for run in standings:
        environment = json.loads((desk.folder_of(run) / "result.json").read_text())["environment"]
        assert environment["git_commit"] == f"{commit}+changes"
    assert call("-m", "seed=0,1", *BASELINE).status == 2  # the new code is really new


def test_two_runs_share_a_gpu(cluster, tmp_path):
    """Five runs in three jobs; each has its own journal and exit record, and one's failure is not the other's."""
    desk = Desk(tmp_path, cluster)
    command = [*ONE_CORE, "-m", "sweep=packed", *LONG, "trainer.device=auto", "hydra.launcher.runs_per_gpu=2"]
    said = desk.run(*command, "seed=0,1,2,3,4", "hydra.launcher.cpus=2", "trainer.epochs=5")
    assert "5 of 5 runs submitted in 3 jobs" in said
    standings = desk.wait("packed", lambda runs: all(run["state"] == "running" and run["epoch"] for run in runs[:2]))
    assert standings[0]["job"] == standings[1]["job"] != standings[2]["job"]
    assert standings[0]["gpu"] == standings[1]["gpu"] in ("0", "1")
    process = json.loads((desk.folder_of(standings[0]) / "run.lock").read_text())["pid"]
    os.kill(process, 9)  # its neighbour goes on, and it starts again beside it or after
    standings = desk.wait_all("packed")
    assert [run["attempts"] for run in standings] == [2, 1, 1, 1, 1]
    assert len({run["job"] for run in standings}) == 3


def test_a_job_without_gpu_touches_none(cluster, tmp_path):
    """trainer.device=auto would take any that it sees."""
    desk = Desk(tmp_path, cluster)
    launcher = ["hydra/launcher=slurm_cpu", "hydra.launcher.cpus=1", "hydra.launcher.memory=2G"]
    desk.run(*launcher, "-m", "sweep=cpu", *LONG, "trainer.device=auto")
    (run,) = desk.wait("cpu", lambda runs: runs[0]["state"] == "running" and runs[0]["epoch"] >= 1)
    process = json.loads((desk.folder_of(run) / "status.json").read_text())["pid"]
    environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=" in environment
    assert "gres" not in cluster.run("scontrol", "show", "job", run["job"]).lower().replace("gres=(null)", "")
    desk.run("task=sweep", "task.sweep=cpu", "task.action=cancel")
    desk.wait_for_queue()


def test_a_sweep_longer_than_an_array_may_be(tmp_path, tmp_path_factory):
    """Five jobs at two an array, one or two at a time: the arrays run one after the other."""
    from cluster import Cluster, why_not

    if reason := why_not():
        pytest.skip(reason)
    small = Cluster(tmp_path_factory.mktemp("small"), max_array_size=2)
    try:
        desk = Desk(tmp_path, small.up())
        words = [*BASELINE, "tracking=none", "trainer.epochs=1", "hydra.launcher.array_parallelism=2"]
        words.append("seed=0,1,2,3,4")
        assert "5 of 5 runs, in 5 jobs" in desk.run(
            *ONE_CORE, "-m", "sweep=long", *words, "hydra.launcher.dry_run=true"
        )
        said = desk.run(*ONE_CORE, "-m", "sweep=long", *words)
        assert "5 of 5 runs submitted in 5 jobs" in said
        standings = desk.wait("long", lambda runs: all("Dependency" in run["detail"] for run in runs[2:]))
        arrays = [run["job"].partition("_")[0] for run in standings]
        assert [arrays.count(array) for array in dict.fromkeys(arrays)] == [2, 2, 1]
        assert sum(run["state"] == "running" for run in standings) <= 2
        desk.wait_all("long")
    finally:
        small.down()


def test_a_thousand_runs_are_tried_out(cluster, tmp_path):
    """Different networks, losses and rates; SLURM is asked about the jobs, nothing is submitted or written."""
    desk = Desk(tmp_path, cluster)
    pairs = (
        "resnet8,resnet20,resnet32,resnet56,resnet110,wrn_16_2,wrn_40_2,shufflenetv2_1x,hcgnet_a1,resnet32_resnet110"
    )
    rates = ",".join(f"{rate / 1000}" for rate in range(1, 26))
    words = [f"pair={pairs}", "loss=lmcl,mcl,dml,baseline", f"optimizer.lr={rates}", "hydra.launcher.dry_run=true"]
    said = desk.run(*ONE_CORE, "-m", *words, timeout=300)
    assert "SLURM would take 1000 of 1000 runs, in 1000 jobs; nothing was submitted." in said
    assert said.count("#SBATCH --array=0-999%1000") == 1
    assert cluster.jobs() == [] and list(tmp_path.iterdir()) == []
    # One word wrong among them is said before SLURM hears of any.
    ended = desk.call(*ONE_CORE, "-m", *words, "loss=lmcl,lcml", "tracking=none")
    assert ended.status == 2 and "lcml" in ended.err and cluster.jobs() == []
