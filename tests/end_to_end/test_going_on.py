"""Going on with a run folder: resume=FOLDER, finished runs, two processes, damaged checkpoints."""

import json
import os
import re
import signal
import time

import pytest
from runs import LMCL, SMALL, assert_same_run, end, epochs, only_folder, start, status

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
        assert "own head," in ended.out and "epoch      loss" not in ended.out
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


DAMAGE = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "one bit": lambda content: content[:5000] + bytes([content[5000] ^ 16]) + content[5001:],
}


def checkpoints(folder):
    return sorted((folder / "checkpoints").iterdir())


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_the_newest_checkpoint_is_damaged(damage, call, own_copy, interrupted_run, lmcl_run):
    folder = own_copy(interrupted_run)
    older, newest = checkpoints(folder)
    newest.write_bytes(damage(newest.read_bytes()))
    ended = call(*QUIET)
    assert ended.status == 0
    assert newest.name in ended.err and "going back to the checkpoint before it" in ended.err
    assert ended.err.count("\n") == 1
    assert "going on at epoch 1, step 10\n" in (folder / "run.log").read_text()
    assert_same_run(folder, lmcl_run)


def test_every_checkpoint_is_damaged(call, own_copy, interrupted_run):
    folder = own_copy(interrupted_run)
    for path in checkpoints(folder):
        path.write_bytes(b"")
    before = contents(folder, without="run.log")
    ended = call(*QUIET)
    assert ended.status == 1
    last = ended.err.splitlines()[-1]
    assert last.startswith("mcl_lab: error: no intact checkpoint is left in ") and folder.name in last
    assert contents(folder, without="run.log") == before


NOT_FINITE = [*SMALL, "loss.meta_event=null", "optimizer.lr=1e30", "trainer.checkpoint_steps=1"]


def test_a_loss_that_is_not_finite(store, call, tmp_path):
    arguments = [*NOT_FINITE, "tracking.wait=0"]
    first = call(*arguments)
    assert first.status == 1
    line = r"mcl_lab: error: loss term \w+ is not finite \(NaN or infinite\) at step (\d+)\n"
    step = int(re.fullmatch(line, first.err)[1])
    folder = only_folder(tmp_path)
    kept = contents(folder / "checkpoints")
    assert kept and all(f"step-{step:09d}" > name for name in kept)
    assert status(folder) == "failed" and first.err.removeprefix("mcl_lab: error: ").strip() in message(folder)
    store.wait_for("FAILED")

    again = call(*arguments)
    assert (again.status, again.err) == (first.status, first.err)
    assert {name: content for name, (content, _) in contents(folder / "checkpoints").items()} == {
        name: content for name, (content, _) in kept.items()
    }
    store.wait_for("FAILED")
    assert len(store.runs()) == 1


def test_a_loss_that_is_never_finite(call, tmp_path):
    ended = call(*NOT_FINITE, "tracking=none", "data.std=[1e-45,1e-45,1e-45]")
    assert ended.status == 1 and re.fullmatch(r"mcl_lab: error: .* is not finite .* at step 1\n", ended.err)
    assert not (only_folder(tmp_path) / "checkpoints").exists()


def message(folder):
    return json.loads((folder / "status.json").read_text())["message"]


def contents(folder, without=None):
    """Bytes and time of change of each file."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != without
    }
