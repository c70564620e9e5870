"""Recorded work does what it did as it was written, here recorded on a CPU (recorded.py)."""

import logging
import random

import numpy
import pytest
import torch
from recorded import CpuRecorder
from torch import nn
from toy_run import ToyRun, equal

from mcl_lab.training.graphs import WARM_UP, Graphed

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def recorder(monkeypatch):
    monkeypatch.setattr(Graphed, "recorder", CpuRecorder)


class Written:
    """A function that counts how often it is run as it is written, and what it changes."""

    def __init__(self):
        self.runs, self.total = 0, torch.zeros(())

    def __call__(self, x, factor):
        self.runs += 1
        self.total += x.sum()
        return {"product": [x * factor], "total": self.total.clone()}


def test_it_is_run_as_written_a_few_times_and_once_to_be_recorded():
    written = Written()
    graphed, total = Graphed(written, CPU), 0.0
    for call in range(1, WARM_UP + 4):
        x, factor = torch.randn(3), 0.5 * call
        found = graphed(x, factor)
        total += x.sum()
        assert found["product"][0].equal(x * factor) and torch.allclose(found["total"], total, atol=1e-6)
        assert torch.allclose(written.total, total, atol=1e-6)  # recording it changed nothing
        assert written.runs == min(call, WARM_UP + 1)


def test_each_shape_is_recorded_by_itself():
    written = Written()
    graphed = Graphed(written, CPU)
    for call in range(3 * WARM_UP):
        for x in (torch.randn(3), torch.randn(5), torch.randn(3).double()):
            product = graphed(x, 2.0)["product"][0]
            assert product.dtype == x.dtype and product.equal(2 * x), call
    assert written.runs == 3 * (WARM_UP + 1)


def test_what_waits_for_the_device_is_run_as_written(caplog):
    def waits(x):
        return x / x.max().item()

    graphed = Graphed(waits, CPU)
    with caplog.at_level(logging.WARNING):
        for _ in range(WARM_UP + 3):
            x = torch.rand(3) + 1
            assert graphed(x).equal(waits(x))
    (line,) = caplog.messages
    assert line.startswith("not launched as a CUDA graph: operation not permitted when stream is capturing")


@pytest.mark.parametrize("draw", [random.random, numpy.random.rand, lambda: 0.5], ids=["python", "numpy", "none"])
def test_what_draws_elsewhere_is_run_as_written(draw, caplog):
    graphed = Graphed(lambda x: x * draw(), CPU)
    found = {graphed(torch.ones(())).item() for _ in range(WARM_UP + 5)}
    if draw() == 0.5:
        assert found == {0.5} and not caplog.messages
    else:
        assert len(found) == WARM_UP + 5
        assert caplog.messages == ["not launched as a CUDA graph: it draws random numbers of Python, NumPy or the CPU"]


def test_errors_of_its_own_are_as_ever():
    with pytest.raises(RuntimeError, match="its own"):
        Graphed(lambda x: (_ for _ in ()).throw(RuntimeError("its own")), CPU)(torch.zeros(1))


def test_what_python_keeps_is_recorded_as_it_is():
    """The comparisons here would see it."""
    kept = [1.0]
    graphed = Graphed(lambda x: x * kept[0], CPU)
    for call in range(WARM_UP + 2):
        kept[0] = call + 1.0
        assert graphed(torch.ones(())).item() == min(call, WARM_UP) + 1


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_run_ends_with_the_bits_of_one_without(batch_norm):
    """Dropout, BatchNorm, meta events, learning rates that change at each epoch's end; from a checkpoint as well."""
    runs = []
    for graphs in (False, True):
        run = ToyRun(epochs=6, graphs=graphs, checkpoint_steps=1)
        if not batch_norm:
            for peer in run.cohort.peers.values():
                peer.norm = nn.Identity()
        run.trainer.fit()
        runs.append(run)
    plain, graphed = runs
    assert equal(graphed.outcome(), plain.outcome())
    assert graphed.objective.calls == WARM_UP + 1 and plain.objective.calls == 30
    if batch_norm:
        resumed = ToyRun(epochs=6, graphs=True).resume(graphed.saved[10][1])
        resumed.trainer.fit()
        assert equal(resumed.outcome(), plain.outcome())
