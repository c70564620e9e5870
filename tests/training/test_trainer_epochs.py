"""What the loop does and writes, epoch by epoch."""

import math
from itertools import pairwise

import pytest
import torch
from toy_run import ToyMetaEvent, ToyRun, equal, timeless

from mcl_lab.errors import RunFailed
from mcl_lab.training.evaluation import evaluate


@pytest.mark.parametrize(
    ("max_steps", "steps_after_epochs"),
    [(1, [1]), (4, [4]), (5, [5]), (6, [5, 6]), (10, [5, 10]), (14, [5, 10, 14]), (15, [5, 10, 15]), (99, [5, 10, 15])],
)
def test_max_steps(max_steps, steps_after_epochs):
    run = ToyRun(max_steps=max_steps)
    records = run.trainer.fit()
    assert [record["step"] for record in records] == steps_after_epochs
    assert [record["epoch"] for record in records] == list(range(1, len(records) + 1))
    assert run.objective.calls == steps_after_epochs[-1] and run.trainer.finished
    assert run.shown.total == min(max_steps, 15)
    in_epoch = [step - before for before, step in pairwise([0, *steps_after_epochs])]
    events = sum(math.ceil(steps / 2) for steps in in_epoch)  # after every second batch of an epoch
    assert len(run.meta_event.events) == events


def test_a_finished_run_does_nothing():
    run = ToyRun()
    records = run.trainer.fit()
    written = list(run.written)
    assert run.trainer.fit() == records and run.written == written and run.objective.calls == 15


def test_checkpoint_before_record():
    run = ToyRun(epochs=2, checkpoint_steps=2)
    run.trainer.fit()
    assert run.written == [
        *[("checkpoint", step) for step in (2, 4, 5)],
        ("record", 5),
        *[("checkpoint", step) for step in (6, 8, 10, 10)],
        ("record", 10),
    ]


def test_records():
    """The metrics of an epoch, recomputed from what the objective was given."""
    run = ToyRun(epochs=2, meta=False)
    seen = []
    original = run.objective.forward

    def forward(output, labels):
        terms = original(output, labels)
        hits = [(peer[1].argmax(1) == labels).double().mean().item() for peer in output.logits]
        seen.append(({name: term.item() for name, term in terms.items()}, hits))
        return terms

    run.objective.forward = forward
    records = run.trainer.fit()
    for epoch, record in enumerate(records):
        steps, metrics = seen[5 * epoch : 5 * epoch + 5], record["metrics"]
        means = {name: sum(terms[name] for terms, _ in steps) / 5 for name in ("own", "inner")}
        for name, mean in means.items():
            assert metrics[f"train/{name}"] == pytest.approx(mean, rel=1e-6)
        assert metrics["train/loss"] == pytest.approx(sum(means.values()), rel=1e-6)
        for place, peer in enumerate("ab"):
            assert metrics[f"train/{peer}/own_head"] == pytest.approx(20 * sum(hits[place] for _, hits in steps))
        assert metrics["train/learning_rate"] == pytest.approx([0.1, 0.05][epoch])
        assert metrics["train/images_per_second"] == pytest.approx(20 / metrics["train/seconds"])
    assert run.journal == records == run.shown.epochs
    accuracies = evaluate(run.cohort, run.objective.ensembles, run.trainer.evaluations["test"])["top1"]
    for peer, heads in accuracies.items():
        assert {head: metrics[f"test/{peer}/{head}"] for head in heads} == heads
        assert set(heads) == {"stage1", "own_head", "ensemble"}


def test_layer_weights_of_the_test_images():
    """Recorded beside what is recorded without them, and nothing of the training changes."""
    rows = []

    def pair_weights(embeddings):
        """Of the pairs (a, b) and (b, a), of two stages each."""
        (a1, a2), (b1, b2) = ([stage.sum(1).sigmoid() for stage in peer] for peer in embeddings)
        rows.append([a1 * b1, a1 * b2, a2 * b1, a2 * b2])
        return torch.stack([*rows[-1], a1 * b1, a2 * b1, a1 * b2, a2 * b2])

    def trained(weights):
        run = ToyRun(epochs=2, meta=False)
        run.objective.pair_weights = weights
        run.trainer.evaluations["validation"] = run.trainer.evaluations["test"][:2]
        return run, [timeless(record)["metrics"] for record in run.trainer.fit()]

    (plain, without), (run, metrics) = trained(None), trained(pair_weights)
    names = ["a.stage1-b.stage1", "a.stage1-b.own_head", "a.own_head-b.stage1", "a.own_head-b.own_head"]
    assert len(rows) == 6  # three batches of test images after each epoch
    for epoch, (found, expected) in enumerate(zip(metrics, without, strict=True)):
        means = [torch.cat(column).mean().item() for column in zip(*rows[3 * epoch : 3 * epoch + 3], strict=True)]
        layer_weights = {f"layer_weights/{name}": pytest.approx(mean) for name, mean in zip(names, means, strict=True)}
        assert found == expected | layer_weights
    assert equal(run.trainer.state_dict()["parts"], plain.trainer.state_dict()["parts"])


def test_training_mode_in_training():
    modes = set()
    run = ToyRun(in_step=lambda step: modes.add(run.cohort.training))
    run.cohort.eval()
    run.trainer.fit()
    assert modes == {True}


def test_progress():
    run = ToyRun(epochs=2, max_steps=7)
    run.trainer.fit()
    assert [(epoch, step) for epoch, step, _ in run.shown.steps] == [(0, n) for n in range(1, 6)] + [(1, 6), (1, 7)]
    assert all(math.isfinite(metrics["loss"]) for _, _, metrics in run.shown.steps)
    resumed = ToyRun(epochs=2, max_steps=7).resume(run.saved[0][1])
    resumed.trainer.fit()
    assert (resumed.shown.done, resumed.shown.total) == (5, 7)


def poisoned(step, value, **options):
    """A run whose parameter `scale` becomes `value` before training step `step`."""

    def poison(now):
        if now == step:
            with torch.no_grad():
                run.objective.scale.fill_(value)

    run = ToyRun(in_step=poison, **options)
    return run


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 7, 15])
def test_a_term_that_is_not_finite(step, value):
    run = poisoned(step, value, checkpoint_steps=1)
    with pytest.raises(RunFailed, match=rf"loss term own is not finite .* at step {step}$"):
        run.trainer.fit()
    assert [saved for saved, _ in run.saved][-1:] == ([step - 1] if step > 1 else [])
    for _, content in run.saved:
        state = ToyRun().resume(content).trainer.state_dict()["parts"]
        assert all(torch.isfinite(value).all() for name in ("cohort", "objective") for value in state[name].values())
    if run.saved:
        resumed = ToyRun().resume(run.saved[-1][1])
        resumed.trainer.fit()
        whole = ToyRun()
        whole.trainer.fit()
        assert [timeless(record) for record in resumed.trainer.records] == [timeless(r) for r in whole.trainer.records]


def test_a_hypergradient_that_is_not_finite(monkeypatch):
    def spoilt(event, *batch):
        return [original(event, *batch)[0] * (math.nan if run.objective.calls == 3 else 1)]

    original = ToyMetaEvent.hypergradient
    monkeypatch.setattr(ToyMetaEvent, "hypergradient", spoilt)
    run = ToyRun(checkpoint_steps=1)
    with pytest.raises(RunFailed, match="the hypergradient is not finite .* at step 3$"):
        run.trainer.fit()
    assert [step for step, _ in run.saved] == [1, 2]


@pytest.mark.parametrize("part", ["cohort", "objective"])
def test_a_state_that_is_not_finite_is_not_kept(part):
    """A finite loss may have an infinite gradient, as the square root has at 0."""
    run = ToyRun(checkpoint_steps=1)
    victim = next(getattr(run, part).parameters())
    original = run.objective.forward

    def forward(output, labels):
        terms = original(output, labels)
        zero = (victim - victim.detach()).sum()
        return terms | {"root": zero.sqrt() if run.objective.calls == 3 else zero}

    run.objective.forward = forward
    with pytest.raises(RunFailed, match=rf"{part} \S+ is not finite .* after step 3$"):
        run.trainer.fit()
    assert [step for step, _ in run.saved] == [1, 2]


@pytest.mark.parametrize("checkpoint_steps", [None, 5])
def test_a_resumed_run_has_nothing_to_warn_of(checkpoint_steps, recwarn):
    """PyTorch's schedules warn of an optimizer that took no step, which a run resumed at an epoch's end has."""
    run = ToyRun(checkpoint_steps=checkpoint_steps)
    run.trainer.fit()
    for _, content in run.saved:
        ToyRun().resume(content).trainer.fit()
    assert not list(recwarn)
