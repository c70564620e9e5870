"""The documents' commands for SLURM, in their order, on a real one; and those for a cluster to play with.

The others are run by end_to_end/test_documented_commands.py.
"""

import re
import subprocess
import sys

import pytest
from cluster import Cluster, why_not
from desk import Desk
from documents import COMMANDS, HOUSE, is_for_slurm, parsed, write_files

pytestmark = pytest.mark.full
SMALL = ["data=digits", "data.images.size=8", "data.batch_size=20", "trainer.max_steps=2", "tracking=none"]
HELD = ["hydra.launcher.sbatch=[--hold]"]  # submitted, and never started
SITE = ["hydra.launcher.partition=null", "hydra.launcher.account=null"]  # of which this cluster has none


def test_a_sweep_from_submission_to_cancelling(cluster, tmp_path):
    """In the documents' order, but that a sweep is followed live when nothing of it is left in the queue. No run begins: what
    runs do there is told by the other tests."""
    desk = Desk(tmp_path, cluster)
    write_files(tmp_path)
    queued, done = 0, set()
    for command in sorted(filter(is_for_slurm, COMMANDS), key=lambda command: what_it_does(command) == "status"):
        words, does = parsed(command.filled("mine"))[1][2:], what_it_does(command)
        small = {"submit": [*SMALL, *HELD], "dry_run": [*SMALL, "hydra.launcher.memory=2G"]}.get(does, [])
        ended = desk.call(*words, *small, *(SITE if "mysite" in command.text else []))
        assert (ended.status, ended.err) == (0, ""), ended
        match does:
            case "dry_run":
                assert "nothing was submitted" in ended.out and "#SBATCH" in ended.out
                assert ("module load cuda" in ended.out) == ("mysite" in command.text)
            case "submit" | "resubmit":
                assert f"{24 - queued} of 24 runs submitted" in ended.out
                queued = 24
            case "cancel":
                assert f"SLURM was asked to end {queued} of its jobs" in ended.out
                assert "no job of it is in SLURM's queue" in desk.run(*words)
                queued = 0
            case "show" | "status":
                assert "shufflenetv2_1x_resnet110-lmcl-s2" in ended.out
        done.add(does)
        states = {run["state"] for run in desk.standings("heterogeneous")}
        assert states == ({"queued"} if queued else {"cancelled"} if "cancel" in done else set()), command
    assert done == {"dry_run", "submit", "show", "status", "cancel", "resubmit"} and queued == 0
    desk.wait_for_queue()


def what_it_does(command) -> str:
    if action := re.search(r"\btask\.action=(\w+)", command.text):
        return action[1]
    return "show" if "task=sweep" in command.text else "dry_run" if "dry_run=true" in command.text else "submit"


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.kind == "cluster"], ids=str)
def test_a_cluster_to_play_with(command, tmp_path):
    words = parsed(command.filled("mine"))[1]
    assert words[-2:] == ["up", "cluster"]
    mine = Cluster(tmp_path / "cluster")

    def call(*words):
        environment = mine.environment
        del environment["SLURM_CONF"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    script = [sys.executable, str(HOUSE / words[1])]
    try:
        said = call(*script, *words[2:])
        assert said == f"export SLURM_CONF={mine.conf}\n"
        assert {line.split()[0] for line in call("bash", "-c", f"{said}sinfo -h -N").splitlines()} == {"n1", "n2"}
    finally:
        assert call(*script, "down", "cluster") == ""
    assert "down" in mine.status() and "process" not in mine.status()


def test_packages_that_are_named():
    (command,) = [command for command in COMMANDS if command.text.startswith("sudo apt-get ")]
    (inner,) = re.findall(r"\$\((.*)\)", command.text)
    words = [sys.executable, *inner.split()[1:]]
    assert "slurmctld" in subprocess.run(words, cwd=HOUSE, check=True, capture_output=True, text=True).stdout.split()
