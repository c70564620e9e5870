"""Checkpoints that are damaged, foreign or gone: the one before is taken, or the run refuses to start over by itself."""

import hashlib
import io
import os
import re

import pytest
import torch
from training_runs import LMCL, assert_same_run, contents

QUIET = [*LMCL, "tracking=none"]


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
    _, newest = checkpoints(folder)
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


def checkpoint_that_says(path, **facts):
    """The checkpoint `path` with other facts in it, whole and under a right checksum."""
    buffer = io.BytesIO()
    torch.save(torch.load(path, weights_only=True) | facts, buffer)
    checksum = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    path.unlink()
    other = path.with_name(re.sub(r"[0-9a-f]{16}", checksum, path.name))
    other.write_bytes(buffer.getvalue())
    return other


@pytest.mark.parametrize(
    ("facts", "reason"), [({"format": 99}, "newer mcl_lab"), ({"run_key": "0" * 64}, "of a run with another config")]
)
def test_the_newest_checkpoint_is_foreign(facts, reason, call, own_copy, interrupted_run, lmcl_run):
    folder = own_copy(interrupted_run)
    newest = checkpoint_that_says(checkpoints(folder)[-1], **facts)
    ended = call(*QUIET)
    assert ended.status == 0 and ended.err.count("\n") == 1
    assert newest.name in ended.err and reason in ended.err and "going back to the checkpoint before it" in ended.err
    assert_same_run(folder, lmcl_run)


def test_a_checkpoint_of_other_networks(call, own_copy, interrupted_run):
    """As after an edit of a network's class, which no key shows."""
    folder = own_copy(interrupted_run)
    parts = torch.load(checkpoints(folder)[-1], weights_only=True)["parts"]
    parts["cohort"].popitem()
    checkpoint_that_says(checkpoints(folder)[-1], parts=parts)
    before = contents(folder, without="run.log")
    ended = call(*QUIET)
    assert ended.status == 1 and ended.err.count("\n") == 1
    assert ended.err.startswith("mcl_lab: error: the checkpoint of step 13 does not fit what this code builds")
    assert contents(folder, without="run.log") == before


def test_every_checkpoint_is_gone(call, own_copy, interrupted_run, undisturbed):
    """An epoch in the journal, and nothing to go on from: the run does not start over as if there had been none."""
    folder = own_copy(interrupted_run)
    for path in checkpoints(folder):
        path.unlink()
    (folder / "metrics.jsonl").write_text((undisturbed(*QUIET) / "metrics.jsonl").read_text().splitlines(True)[0])
    before = contents(folder, without="run.log")
    ended = call(*QUIET)
    assert ended.status == 1 and ended.err.count("\n") == 1
    assert f"to start over, delete the run folder {os.path.relpath(folder)}" in ended.err
    assert contents(folder, without="run.log") == before
