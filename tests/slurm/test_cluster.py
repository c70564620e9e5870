"""The cluster that the other tests of this folder rely on: it runs, deals out GPUs, accounts and preempts."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cluster import Cluster, ClusterError, _free_ports

SCRIPT = Path(__file__).with_name("cluster.py")
SHOW_GPUS = 'echo "${CUDA_VISIBLE_DEVICES-unset}"'


def test_two_clusters_that_start_at_once_share_no_port(monkeypatch):
    """Though nobody listens on the first one's yet, and chance has it that both ask for the same."""
    drawn = iter([first := _free_ports(1)[0], *(other := _free_ports(1)), *range(20_000, 21_000)])
    monkeypatch.setattr("random.SystemRandom", lambda: SimpleNamespace(randrange=lambda *_: next(drawn)))
    assert not {first, *other} & {*_free_ports(2)}


def test_ended_jobs_are_accounted_with_their_exit_status(cluster, tmp_path):
    good = cluster.submit("echo done", f"--output={tmp_path}/good")
    bad = cluster.submit("exit 3", "--output=/dev/null")
    assert cluster.wait(good) == "COMPLETED"
    assert cluster.record(good)["ExitCode"] == "0:0"
    assert (tmp_path / "good").read_text() == "done\n"
    assert cluster.wait(bad) == "FAILED"
    assert cluster.record(bad)["ExitCode"] == "3:0"


def test_each_job_sees_the_gpus_that_it_asked_for(cluster, tmp_path):
    def submit(name, *options):
        # Each waits for the other, so that they run at the same time.
        script = (
            f"srun --ntasks=1 bash -c '{SHOW_GPUS}' > {tmp_path}/{name}; until [ -e {tmp_path}/go ]; do sleep 0.1; done"
        )
        return cluster.submit(script, "--output=/dev/null", "--nodelist=n1", *options)

    jobs = [submit("a", "--gres=gpu:1"), submit("b", "--gpus-per-node=1"), submit("none")]
    for job in jobs:
        cluster.wait(job, "RUNNING")
    (tmp_path / "go").touch()
    assert [cluster.wait(job) for job in jobs] == ["COMPLETED"] * 3
    assert sorted((tmp_path / name).read_text().strip() for name in "ab") == ["0", "1"]
    assert (tmp_path / "none").read_text().strip() == "unset"


def test_a_job_of_higher_priority_preempts(cluster, tmp_path):
    step = f"trap 'echo told > {tmp_path}/told; exit 0' TERM; touch {tmp_path}/ready; while :; do sleep 0.1; done"
    whole = ("--output=/dev/null", "--nodelist=n1", f"--gres=gpu:{cluster.gpus}")
    script = f'srun --ntasks=1 bash -c "{step}"; scontrol requeue $SLURM_JOB_ID; sleep 60'
    low = cluster.submit(script, "--partition=low", *whole)
    cluster.poll(lambda: (tmp_path / "ready").exists(), f"a step of job {low}")
    high = cluster.submit("true", "--partition=high", *whole)
    assert cluster.wait(high) == "COMPLETED"
    assert (tmp_path / "told").read_text() == "told\n"
    assert cluster.wait(low, "PENDING", "RUNNING") and cluster.restarts(low) == 1
    cluster.cancel_all()


@pytest.mark.full
def test_down_ends_every_process_and_up_starts_again(cluster, tmp_path_factory):
    """Another cluster beside the first one, by the commands of the documentation."""
    folder = tmp_path_factory.mktemp("other")

    def call(*words):
        command = [sys.executable, SCRIPT, words[0], folder, *words[1:]]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert call("up", "nodes=1", "max_array_size=3") == f"export SLURM_CONF={folder}/slurm.conf\n"
    other = Cluster(folder, nodes=1)
    with pytest.raises(ClusterError, match="Invalid job array specification"):
        other.submit("true", "--array=0-3")
    # A process of its own session whose parent has ended is not found by SLURM itself.
    job = other.submit(
        "setsid --fork sleep 987 > /dev/null 2>&1; trap '' TERM; while :; do sleep 1; done", "--output=/dev/null"
    )
    other.wait(job, "RUNNING")
    other.poll(lambda: processes_with(folder, "sleep\0987"), "the job's process")
    call("down")
    assert processes_with(folder) == []
    call("down")
    assert "down" in call("status")
    assert cluster.run("squeue") and cluster.jobs() == []


def processes_with(folder: Path, word: str = "") -> list[int]:
    """Processes that have to do with a folder: by their arguments, environment, current folder or open files."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text(errors="replace")
            links = [os.readlink(link) for link in (process / "cwd", *(process / "fd").iterdir())]
            known = "".join([command, (process / "environ").read_text(errors="replace"), *links])
        except OSError:
            continue
        if str(folder) in known and word in command:
            found.append(int(process.name))
    return found
