"""The end of a run on the screen: what it compares with, and the commands it prints."""

import re
import shlex
import shutil
import statistics
import subprocess

from training_runs import LMCL, SMALL, result

QUIET = [*LMCL, "tracking=none", "data.batch_size=128", "trainer.max_steps=2"]


def test_the_printed_command_trains_the_baseline(call, tmp_path):
    """Options from a folder of one's own included."""
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own" / "data" / "mine.yaml").write_text("defaults: [digits]\nname: mine\n")
    words = ["--config-dir=own", *QUIET, "data=mine"]
    first = call(*words)
    assert "baseline," not in first.out
    (command,) = re.findall(r"^baseline of resnet8 +(.+)$", first.out, re.MULTILINE)
    done = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (tmp_path / "runs").glob("resnet8-lmcl-*")
    (baseline,) = (tmp_path / "runs").glob("single-resnet8-baseline-*")
    accuracy = result(baseline)["peers"]["a"]["own_head_last_epoch"]

    again = call(*words)
    assert again.status == 0 and "This run is finished" in again.out and "baseline of" not in again.out
    assert "baseline," in again.out and "gain" in again.out
    for key, peer in result(folder)["peers"].items():
        (row,) = [line.split() for line in again.out.splitlines() if line.split()[:1] == [f"{key}:"]]
        assert row[-2:] == [f"{accuracy:.2f}", f"{peer['own_head_last_epoch'] - accuracy:+.2f}"]


def test_the_baselines_of_a_run_are_those_of_a_report(call, tmp_path):
    """No changed loss, and networks that were alone before those of a cohort."""
    together = [*SMALL, "tracking=none", "data.batch_size=128", "trainer.max_steps=2", "loss=baseline"]
    alone = [*(word for word in together if "peers.b" not in word), "pair=single/resnet8"]

    def shown():
        *_, row = [line.split() for line in call(*QUIET).out.splitlines() if line.split()[:1] == ["a:"]]
        return row[6:]  # after the peer and four figures of it

    def accuracy(pattern):
        (folder,) = (tmp_path / "runs").glob(pattern)
        return statistics.mean(peer["own_head_last_epoch"] for peer in result(folder)["peers"].values())

    assert call(*together, "loss.branches=true").status == 0 and shown() == []
    shutil.rmtree(next((tmp_path / "runs").glob("resnet8-baseline-*")))
    assert call(*together).status == 0 and shown()[0] == f"{accuracy('resnet8-baseline-*'):.2f}"
    assert call(*alone).status == 0 and shown()[0] == f"{accuracy('single-*'):.2f}" and len(shown()) == 2
