"""Going on with a run folder: resume=FOLDER, finished runs, two processes."""

import os
import re
import signal
import time

import pytest
from training_runs import LMCL, assert_same_run, contents, end, epochs, only_folder, start, status

QUIET = [*LMCL, "tracking=none"]


def test_resume_a_folder(call, own_copy, interrupted_run, lmcl_run):
    folder = own_copy(interrupted_run)
    ended = call(f"resume={folder}", "trainer=auto", "trainer.threads=1", "trainer.checkpoint_steps=null")
    assert (ended.status, ended.err) == (0, "")
    assert_same_run(folder, lmcl_run)


@pytest.mark.full
def test_resume_with_other_threads(call, own_copy, interrupted_run):
    """Sums may differ in their last bits; the run is the same."""
    folder = own_copy(interrupted_run)
    ended = call(f"resume={folder}", "trainer.threads=2", "trainer.device=cpu")
    assert (ended.status, ended.err) == (0, "")
    assert [epoch["step"] for epoch in epochs(folder)] == [22, 44] and status(folder) == "finished"


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        ("optimizer.lr=0.2", "optimizer.lr: 0.1 -> 0.2"),
        ("trainer.epochs=3", "trainer.epochs: 2 -> 3"),
        ("seed=1", "seed: 0 -> 1"),
        ("loss.meta_event.every=4", "loss.meta_event.every: 8 -> 4"),
    ],
)
def test_resume_refuses_what_decides_the_numbers(setting, difference, call, own_copy, interrupted_run):
    folder = own_copy(interrupted_run)
    before = contents(folder)
    ended = call(f"resume={folder}", setting)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("mcl_lab: error: resume: ") and ended.err.count("\n") == 1 and difference in ended.err
    assert contents(folder) == before


def test_a_folder_of_another_run(call, own_copy, interrupted_run):
    folder = own_copy(interrupted_run)
    before = contents(folder)
    ended = call(*QUIET, "optimizer.lr=0.2", f"hydra.run.dir={folder}")
    assert (ended.status, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert ended.err.startswith("mcl_lab: error: hydra.run.dir: ") and "optimizer.lr: 0.1 -> 0.2" in ended.err
    assert contents(folder) == before


def test_a_finished_run_says_so(call, own_copy, lmcl_run):
    folder = own_copy(lmcl_run)
    before = contents(folder)
    for arguments in (QUIET, [f"resume={folder}"]):
        ended = call(*arguments)
        assert (ended.status, ended.err) == (0, "")
        shown = re.search(r"^This run is finished\. To train it again, delete (\S+)$", ended.out, re.MULTILINE)
        assert shown and os.path.samefile(shown[1], folder)
        assert "own head," in ended.out and "epoch     loss" not in ended.out
    assert contents(folder) == before


def test_two_processes_on_one_folder(call, tmp_path):
    first = start([*QUIET, "trainer.epochs=50"], tmp_path)
    while not any(tmp_path.glob("runs/*/status.json")):
        assert first.poll() is None
        time.sleep(0.02)
    folder = only_folder(tmp_path)
    ended = call(*QUIET, "trainer.epochs=50")
    assert ended.status == 1 and ended.err.count("\n") == 1
    assert f"process {first.pid} on " in ended.err and "hydra.run.dir=" in ended.err
    assert first.poll() is None and status(folder) == "running"
    first.send_signal(signal.SIGTERM)
    assert end(first).status == 128 + signal.SIGTERM
