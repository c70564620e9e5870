"""A method as one object: what it learns by, and the names of its states, which checkpoints in people's folders have."""

import copy

import pytest
import torch
from toy_run import ToyBatches, ToyRun, equal

PARTS = ["cohort", "objective", "optimizer", "schedule", "weight_optimizer", "weight_schedule", "weight_network"]


@pytest.mark.parametrize(("meta", "parts"), [(True, PARTS), (False, PARTS[:4])])
def test_checkpoints_keep_their_names(meta, parts):
    trainer = ToyRun(meta=meta).trainer
    state = trainer.state_dict()
    assert list(state) == ["position", "parts", "figures", "seconds", "records", "random"]
    assert list(state["parts"]) == parts
    modules = [name for name in parts if name in ("cohort", "objective", "weight_network")]
    assert list(trainer.method.networks()) == modules
    assert equal(trainer.method.networks(), {name: state["parts"][name] for name in modules})


def test_a_method_that_took_up_a_state_goes_on_alike():
    ours, other = ToyRun().trainer.method, ToyRun(seed=1).trainer.method
    (first, second, *_) = ToyBatches().epoch(0)
    ours.step(*first)
    ours.apply(ours.hypergradient(*first))
    ours.end_epoch()
    other.load_state_dict(copy.deepcopy(ours.state_dict()))  # or the optimizers would share their tensors
    assert other.learning_rate == ours.learning_rate < 0.1
    for method in (ours, other):
        torch.manual_seed(0)  # of dropout
        method.step(*second)
        method.apply(method.hypergradient(*second))
    assert equal(ours.state_dict(), other.state_dict())


def test_without_a_meta_event_none_is_due():
    method = ToyRun(meta=False).trainer.method
    assert not any(map(method.event_due, range(100))) and method.weight_network is None
