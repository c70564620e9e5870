"""Learning rates against their closed formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl_lab.training.schedules import Cosine, MultiStep


def rates(schedule, epochs, lr):
    """The learning rate of each epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=lr)
    made, found = schedule(optimizer), []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return found


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.data())
def test_cosine(epochs, data):
    warmup = data.draw(st.integers(0, epochs - 1))
    rest = epochs - warmup
    rise = [0.1 * (t + 1) / (warmup + 1) for t in range(warmup)]
    fall = [0.05 * (1 + math.cos(math.pi * t / rest)) for t in range(rest)]
    assert rates(lambda optimizer: Cosine(optimizer, epochs, warmup), epochs, 0.1) == pytest.approx(rise + fall)


def test_cosine_ends_at_zero():
    assert rates(lambda optimizer: Cosine(optimizer, 300), 301, 0.1)[-1] == 0


@pytest.mark.parametrize("warmup", [0, 5])
def test_multistep(warmup):
    expected = [0.1] * 150 + [0.01] * 75 + [0.001] * 75
    expected[:warmup] = [0.1 * (t + 1) / (warmup + 1) for t in range(warmup)]
    assert rates(lambda optimizer: MultiStep(optimizer, [150, 225], 0.1, warmup), 300, 0.1) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", [lambda o: Cosine(o, 9, 2), lambda o: MultiStep(o, [3, 6], 0.5, 1)])
def test_resumed(schedule):
    whole = rates(schedule, 9, 0.2)
    for epochs_done in range(9):
        optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.2) for _ in range(2)]
        first, second = map(schedule, optimizers)
        for _ in range(epochs_done):
            optimizers[0].step()
            first.step()
        optimizers[1].load_state_dict(optimizers[0].state_dict())
        second.load_state_dict(first.state_dict())
        left = []
        for _ in range(epochs_done, 9):
            left.append(optimizers[1].param_groups[0]["lr"])
            optimizers[1].step()
            second.step()
        assert left == whole[epochs_done:]
