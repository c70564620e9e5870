"""Means of an epoch, and the first value that is not finite."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl_lab.errors import RunFailed
from mcl_lab.training.metrics import EpochMetrics

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 1])
HITS_TWO = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
HITS_ONE = torch.tensor([[0.0, 1.0], [0.0, 1.0], [3.0, 1.0]])


def add(metrics, step, logits=(HITS_TWO, HITS_ONE), labels=LABELS, **terms):
    metrics.add({name: torch.tensor(value) for name, value in terms.items()}, list(logits), labels, step)


STEPS = st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(0, 10, width=32), st.integers(1, 5))  # terms, images


@settings(deadline=None, max_examples=30)
@given(st.lists(STEPS, min_size=1, max_size=8))
def test_means_weigh_batches_by_their_images(steps):
    metrics, images, hits = EpochMetrics(CPU), 0, 0
    for number, (first, second, count) in enumerate(steps):
        labels = torch.arange(count) % 2
        logits = torch.eye(2)[torch.zeros(count, dtype=torch.int64)]  # says 0 throughout
        add(metrics, number + 1, [logits], labels, first=first, second=second)
        images += count
        hits += (count + 1) // 2
    means = {
        name: sum(step[place] * step[2] for step in steps) / images for place, name in enumerate(("first", "second"))
    }
    totals = metrics.totals()
    assert totals["terms"] == {name: pytest.approx(mean, abs=1e-4) for name, mean in means.items()}
    assert totals["loss"] == pytest.approx(sum(means.values()), abs=1e-4)
    assert totals["accuracy"] == [pytest.approx(100 * hits / images)] and totals["images"] == images
    assert metrics.latest() == totals  # nothing is under way on a CPU


def test_each_peer_has_its_accuracy():
    metrics = EpochMetrics(CPU)
    add(metrics, 1, loss=1.0)
    assert metrics.totals()["accuracy"] == [pytest.approx(200 / 3), pytest.approx(100 / 3)]
    assert EpochMetrics(CPU).latest() is None


@pytest.mark.parametrize(
    "terms", [{"loss": 1.0}, {"loss": 1.0, "late": 2.0, "later": 3.0}, {"other": 1.0, "late": 2.0}]
)
def test_terms_that_come_or_go_are_refused(terms):
    """They would be missing in the sums, and nobody would watch them."""
    metrics = EpochMetrics(CPU)
    add(metrics, 1, loss=1.0, late=2.0)
    with pytest.raises(RunFailed, match=f"the loss terms of step 2 are {', '.join(terms)}, not loss, late as before"):
        add(metrics, 2, **terms)


def test_reset():
    metrics = EpochMetrics(CPU)
    add(metrics, 1, loss=math.nan)
    metrics.reset()
    assert metrics.latest() is None
    add(metrics, 2, other=3.0)
    assert metrics.totals()["terms"] == {"other": 3.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["first", "second", "third"])
def test_the_first_bad_term_and_step_are_named(where, value):
    metrics = EpochMetrics(CPU)
    good = dict(first=1.0, second=2.0, third=3.0)
    add(metrics, 123456, **good)
    add(metrics, 123457, **good | {where: value})
    add(metrics, 123458, **good | {"first": math.nan})
    for ask in (metrics.totals, metrics.latest):
        with pytest.raises(RunFailed, match=rf"^loss term {where} is not finite \(NaN or infinite\) at step 123457$"):
            ask()


def test_a_bad_hypergradient_is_named():
    metrics = EpochMetrics(CPU)
    add(metrics, 1, first=1.0, second=1.0)
    metrics.watch_hypergradient([torch.ones(3), torch.ones(2, 2)], 1)
    metrics.totals()
    add(metrics, 2, first=1.0, second=1.0)
    metrics.watch_hypergradient([torch.ones(3), torch.tensor([1.0, math.nan])], 2)
    add(metrics, 3, first=math.nan, second=1.0)
    with pytest.raises(RunFailed, match="^the hypergradient is not finite .* at step 2$"):
        metrics.totals()


@pytest.mark.parametrize("bad_before", [False, True])
def test_state_round_trip(bad_before):
    whole, parted = EpochMetrics(CPU), EpochMetrics(CPU)
    for metrics in (whole, parted):
        add(metrics, 1, first=1.5, second=math.inf if bad_before else 2.5)
    restored = EpochMetrics(CPU)
    restored.load_state_dict(parted.state_dict())
    for metrics in (whole, restored):
        add(metrics, 2, first=0.1, second=0.2)
    if bad_before:
        with pytest.raises(RunFailed, match="second is not finite .* at step 1$"):
            restored.totals()
    else:
        assert restored.totals() == whole.totals()


def test_state_round_trip_before_the_first_step():
    restored = EpochMetrics(CPU)
    restored.load_state_dict(EpochMetrics(CPU).state_dict())
    add(restored, 1, loss=2.0)
    assert restored.totals()["loss"] == 2.0
