"""The end of a run on the screen: what it compares with, and the commands it prints."""

import re
import shlex
import subprocess

from runs import LMCL, result

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
