"""The documents' commands for SLURM, in their order, on a real one; and those for a cluster to play with.

The others are run by end_to_end/test_documented_commands.py.
"""

import re
import subprocess
import sys

import pytest
from cluster import Cluster, why_not
from desk import Desk
from documents import COMMANDS, HOUSE, is_for_slurm, parsed

pytestmark = pytest.mark.full
SMALL = ["data=digits", "data.images.size=8", "data.batch_size=20", "trainer.max_steps=2", "tracking=none"]
HELD = ["hydra.launcher.sbatch=[--hold]"]  # submitted, and never started


def test_a_sweep_from_submission_to_cancelling(cluster, tmp_path):
    """No run begins: what runs do there is told by the other tests."""
    desk = Desk(tmp_path, cluster)
    said, states = [], []
    for command in filter(is_for_slurm, COMMANDS):
        words = parsed(command.filled("mine"))[1][2:]
        ended = desk.call(*words, *([] if "task=sweep" in words else [*SMALL, *HELD]))
        assert (ended.status, ended.err) == (0, ""), ended
        said.append(ended.out)
        states.append({run["state"] for run in desk.standings("heterogeneous")})
    submitted, standing, again, cancelled = said
    assert "24 of 24 runs submitted" in submitted and "0 of 24 runs submitted" in again
    assert "queued" in standing and "cancel" in cancelled
    assert states == [{"queued"}] * 3 + [{"cancelled"}]

    # What stands beside these commands.
    assert "24 of 24 runs submitted" in desk.run("task=sweep", "task.sweep=heterogeneous", "task.action=resubmit")
    assert {run["state"] for run in desk.standings("heterogeneous")} == {"queued"} and desk.cluster.jobs()
    desk.run("task=sweep", "task.sweep=heterogeneous", "task.action=cancel")
    desk.run("task=sweep", "task.sweep=heterogeneous", "task.action=status")  # returns, as nothing is left to follow
    desk.wait_for_queue()


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
