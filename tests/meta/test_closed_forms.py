"""hypergradient through each kind of layer, against plain unrolling: PyTorch's own double backward.

B batch.
"""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call
from torch.nn import functional as F

from mcl_lab.meta import second_derivatives
from mcl_lab.meta.hypergradient import hypergradient

B = 5
STEPS = dict(inner_steps=2, outer_steps=1, lr=0.05, momentum=0.9, weight_decay=5e-4)


def problem(body, shape=(3, 6, 6), seed=0, dtype=torch.float64):
    """Inner and outer loss of a network, its parameters, and meta parameters that weigh its B images."""
    torch.manual_seed(seed)
    body = body.to(dtype)
    for value in body.parameters():
        value.data = torch.normal(0.5, 1.0, value.shape, dtype=torch.float64).to(dtype)
    images = torch.randn(B, *shape, dtype=torch.float64).to(dtype)
    meta = [torch.randn(B, dtype=torch.float64).to(dtype).requires_grad_()]

    def features(theta):
        buffers = {name: value.clone() for name, value in body.named_buffers()}
        return functional_call(body, {**theta, **buffers}, (images,)).flatten(1)

    def inner_loss(theta):
        return (torch.sigmoid(meta[0]) * (1 + features(theta).tanh()).square().mean(1)).mean()

    def outer_loss(theta):
        return features(theta).sin().mean()

    return inner_loss, outer_loss, dict(body.named_parameters()), meta


@pytest.fixture
def forward_mode_only(monkeypatch):
    def fall_back(*_, **__):
        pytest.fail("an operation has no forward mode")

    monkeypatch.setattr(second_derivatives, "double_backward", fall_back)


def assert_unrolled(unrolled, body, relative=1e-11, **options):
    the_problem = problem(body, **options)
    (ours,) = hypergradient(*the_problem, **STEPS)
    (expected,) = unrolled(*the_problem, **STEPS)
    assert expected.abs().max() > 0
    assert (ours - expected).abs().max() <= relative * expected.abs().max()


class Twice(nn.Module):
    """One layer at two places, and its own output added to its input."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(F.relu(self.layer(x) + x))


class Standardised(nn.Conv2d):
    """Weights standardised over each filter: what the convolution takes is a function of the parameter."""

    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


LAYERS = {
    "convolution": lambda: nn.Conv2d(3, 4, 3),
    "two": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)),
    "stride and padding": lambda: nn.Conv2d(3, 4, 3, stride=(2, 1), padding=(1, 2), bias=False),
    "padding by a word": lambda: nn.Conv2d(3, 4, 3, padding="same"),
    "other padding": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "dilation": lambda: nn.Conv2d(3, 4, 2, dilation=2),
    "groups": lambda: nn.Conv2d(3, 6, 3, groups=3),
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 3, stride=2),
    "standardised weights": lambda: Standardised(3, 4, 3),
    "batch norm": lambda: nn.BatchNorm2d(3),
    "batch norm after convolution": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)),
    "without scale": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)),
    "without statistics": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "of vectors": lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)),
    "of sequences": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(36, 7), nn.BatchNorm1d(3), nn.Linear(7, 3)),
    "not in training": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval()),
    "relu": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)),
    "relu in place": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3)),
    "other activations": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.GELU(), nn.ReLU6(), nn.PReLU()),
    "pooling": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AvgPool2d(2)),
    "twice": lambda: Twice(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_any_layer(name, unrolled, forward_mode_only):
    assert_unrolled(unrolled, LAYERS[name]())


convolutions = dict(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    affine=st.booleans(),
    size=st.integers(5, 8),
    seed=st.integers(0, 2**32),
)


def assert_convolution(unrolled, size, seed, kernel, affine, **options):
    begin = [nn.Conv2d(4, 8, kernel, **options), nn.BatchNorm2d(8, affine=affine)]
    body = nn.Sequential(*begin, nn.ReLU(), nn.Conv2d(8, 2, 1))
    assert_unrolled(unrolled, body, relative=1e-9, shape=(4, size, size), seed=seed)


@settings(max_examples=15, deadline=None)
@given(**convolutions)
def test_any_convolution(unrolled, **options):
    assert_convolution(unrolled, **options)


@pytest.mark.full
@settings(max_examples=200, deadline=None)
@given(**convolutions)
def test_any_convolution_at_length(unrolled, **options):
    assert_convolution(unrolled, **options)


def test_channels_whose_scale_is_zero(unrolled, forward_mode_only):
    """As networks begin whose blocks are the identity at first: the scale's own derivative is all there is."""
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
    inner, outer, params, meta = problem(body)
    params["1.weight"].data[:2] = 0
    (ours,) = hypergradient(inner, outer, params, meta, **STEPS)
    (expected,) = unrolled(inner, outer, params, meta, **STEPS)
    assert (ours - expected).abs().max() <= 1e-11 * expected.abs().max()


def test_channels_last(unrolled, forward_mode_only):
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    assert_unrolled(unrolled, body.to(memory_format=torch.channels_last))


def test_statistics_of_batch_norm_are_left_as_they_are():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    before = copy.deepcopy(dict(body.named_buffers()))
    hypergradient(*problem(body), **STEPS)
    assert all(value.equal(before[name]) for name, value in body.named_buffers())


class InBfloat16(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.body(x).to(x.dtype)


def test_bfloat16_is_as_near_as_double_backward_is(unrolled, forward_mode_only):
    """Over several networks, distances from the gradient of the same network in float64."""
    ours, plain = [], []
    for seed in range(8):
        body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        )
        exact = problem(copy.deepcopy(body), seed=seed)
        single = problem(InBfloat16(body), seed=seed, dtype=torch.float32)
        expected = unrolled(*exact, **STEPS)[0]
        ours.append((hypergradient(*single, **STEPS)[0] - expected).norm() / expected.norm())
        plain.append((unrolled(*single, **STEPS)[0] - expected).norm() / expected.norm())
    assert sum(ours) <= 1.5 * sum(plain)


class Cube(Function):
    """x ** 3, without a forward mode."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Cubed(nn.Module):
    def forward(self, x):
        return Cube.apply(x)


@pytest.mark.parametrize(
    "middle",
    [Cubed(), nn.GroupNorm(2, 4), nn.SiLU()],
    ids=["of one's own", "group norm", "silu"],
)
def test_operations_without_forward_mode(middle, unrolled):
    assert_unrolled(unrolled, nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), middle, nn.Conv2d(4, 2, 3)))
