"""NaN or infinity at a chosen step, wherever it arises: the run stops and says where, and no checkpoint ever holds it."""

import json
import random
import re

import pytest
import torch
from training_runs import BASELINE, LMCL, SMALL, contents, only_folder, status

from mcl_lab.runs.checkpoints import read

HERE = [*BASELINE, "tracking=none", "trainer.epochs=4"]  # three steps an epoch
TERM = "+loss.spoilt={_target_: spoilt_terms.Spoilt, step: %d, where: %s, value: %s}"


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    monkeypatch.setenv("MCL_LAB_PLUGINS", "spoilt_terms")


def assert_stopped(ended, message: str, step: int, folder) -> None:
    """At `step`, of which there is no checkpoint; those there are hold nothing but finite values."""
    assert ended.status == 1
    assert re.fullmatch(
        rf"mcl_lab: error: {message} is not finite \(NaN or infinite\) (at|after) step {step}\n", ended.err
    )
    assert status(folder) == "failed" and not (folder / "result.json").exists()
    kept = sorted((folder / "checkpoints").glob("*.pt"))
    assert len(kept) == 2
    for path in kept:
        state = read(path)
        assert state["position"]["step"] < step
        assert all(value.isfinite().all() for value in tensors(state))


def tensors(tree) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else []
    return [tensor for part in parts for tensor in tensors(part)]


@pytest.mark.parametrize(
    ("where", "value", "settings", "message"),
    [
        ("loss", "not_a_number", [], "loss term spoilt"),
        ("loss", "infinite", [], "loss term spoilt"),
        ("gradient", "not_a_number", [], "cohort peers.a.+"),
        ("gradient", "infinite", ["optimizer=adamw"], "cohort peers.a.+"),
        ("moments", "not_a_number", ["optimizer=adamw"], r"optimizer state \d+ exp_avg_sq"),
    ],
)
def test_at_a_chosen_step(where, value, settings, message, call, tmp_path):
    step = random.SystemRandom().randint(3, 12)
    words = [*HERE, *settings, TERM % (step, where, value), "trainer.checkpoint_steps=1"]
    first = call(*words)
    assert_stopped(first, message, step, only_folder(tmp_path))
    again = call(*words)
    assert (again.status, again.err) == (first.status, first.err)


def test_a_gradient_between_two_checkpoints(call, tmp_path):
    """The next step's loss shows it, before the next checkpoint."""
    ended = call(*HERE, TERM % (7, "gradient", "not_a_number"))
    assert_stopped(ended, r"loss term \w+", 8, only_folder(tmp_path))


def test_in_the_hypergradient(call, tmp_path):
    event = "{_target_: spoilt_terms.SpoiltEvent, every: 2, event: 4}"  # after steps 1, 3, 5 and 7
    ended = call(*LMCL, "tracking=none", "~loss.meta_event", f"+loss.meta_event={event}", "trainer.checkpoint_steps=1")
    assert_stopped(ended, "the hypergradient", 7, only_folder(tmp_path))


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
