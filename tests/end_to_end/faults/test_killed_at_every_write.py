"""SIGKILL before every single write of a run, each time the same command again."""

import os
import signal
import sys

import pytest
from training_runs import BASELINE, assert_same_run, fork, main_in, only_folder, status


def die_before_write(number, cwd, arguments):
    """A run that kills itself when about to put its n-th file in place, or line into its journal."""
    real_replace, real_fsync, writes = os.replace, os.fsync, 0

    def count():
        nonlocal writes
        if writes == number:
            os.kill(os.getpid(), signal.SIGKILL)
        writes += 1

    def replace(*paths):
        count()
        real_replace(*paths)

    def fsync(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".jsonl"):
            count()
        real_fsync(descriptor)

    os.replace, os.fsync = replace, fsync
    main_in(cwd, arguments)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_at_every_write(baseline_run, tmp_path):
    """Before each file of a run is put in place: every state of the folder that a crash can leave."""
    arguments = [*BASELINE, "tracking=none", "trainer.checkpoint_steps=2"]
    for number in range(100):
        cwd = tmp_path / str(number)
        cwd.mkdir()
        first = fork(die_before_write, number, cwd, arguments)
        if first == 0:
            break
        assert first == -signal.SIGKILL
        assert fork(main_in, cwd, arguments) == 0, (cwd / "output.txt").read_text()
        folder = only_folder(cwd)
        assert_same_run(folder, baseline_run)
        assert status(folder) == "finished"
    # config, record, status; 2 checkpoints and a line an epoch, and one of two steps; networks, result, status
    assert number == 3 + (2 + 1) + (2 + 1 + 1) + 3
