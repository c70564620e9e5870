"""What is counted and timed, against work whose cost is known."""

import time

import pytest
import torch
from torch import nn

from mcl_lab.training.measurement import (
    Stopwatch,
    copy_rate,
    count_multi_adds,
    count_operations,
    multi_adds,
    multi_adds_rate,
    parameters,
)
from mcl_lab.training.memory import PeakMemory

CPU = torch.device("cpu")


def test_operations_forward_and_backward():
    """Products, ReLU, their backwards, a sum and the one that backward starts with; views and empty tensors are none."""
    a, b = torch.randn(4, 5, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    counted = count_operations(lambda: torch.relu(a @ b.view(5, 6)).sum().backward())
    assert counted.count == 3 + 1 + 1 + 2  # mm, relu, sum; ones; back through relu; mm, mm


def test_bytes_are_read_and_written():
    a, b = torch.randn(10), torch.randn(10)
    assert count_operations(lambda: a + b).bytes == 3 * 40
    assert count_operations(lambda: a.add_(b)).bytes == 3 * 40
    assert count_operations(lambda: torch.empty(10)).bytes == 0


def test_multi_adds():
    a, b = torch.randn(4, 5), torch.randn(5, 6)
    assert count_multi_adds(lambda: a @ b) == 4 * 5 * 6
    images, filters = torch.randn(2, 3, 8, 8), torch.randn(7, 3, 3, 3)
    assert count_multi_adds(lambda: torch.conv2d(images, filters, padding=1)) == 2 * 7 * 3 * 9 * 64


@pytest.fixture
def network():
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    return nn.Sequential(*layers)


def test_parameters_and_multi_adds_of_a_network(network):
    assert parameters(network) == (4 * 3 * 9 + 4) + 2 * 4 + (4 * 10 + 10)
    for size in (16, 32):
        assert multi_adds(network, size) == 4 * 3 * 9 * size**2 + 4 * 10


def test_counting_leaves_the_network_as_it_was(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    multi_adds(network, 16)
    assert network.training
    assert all(value.device.type == "cpu" and value.equal(before[name]) for name, value in network.state_dict().items())


def test_a_stopwatch_tells_parts_apart():
    watch = Stopwatch(CPU)
    time.sleep(0.05)
    watch.mark("a")
    watch.mark("b")
    parts = watch.seconds()
    assert list(parts) == ["a", "b"] and parts["a"] >= 0.05 > parts["b"]


def test_rates_are_of_this_machine():
    assert copy_rate(CPU) > 1e8 and multi_adds_rate(CPU, torch.float32) > 1e8


def test_peak_memory_is_that_since_it_was_asked_for():
    size = 400 * 2**20
    before = PeakMemory(CPU).read()
    peak = PeakMemory(CPU)
    torch.ones(size, dtype=torch.uint8)
    assert peak.read() > before + size // 2
    assert PeakMemory(CPU).read() < before + size // 2
