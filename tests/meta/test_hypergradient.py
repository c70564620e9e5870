"""hypergradient against plain unrolling, finite differences of torch.optim.SGD, and the authors' toy problem."""

from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from mcl_lab.meta.hypergradient import hypergradient

GOLDEN = Path(__file__).parents[1] / "golden" / "metasgd_toy.npz"


class Student(nn.Module):
    """BatchNorm, a kink, two heads, and a parameter that no loss uses."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True))
        self.taught = nn.Linear(6, 3)
        self.judged = nn.Linear(6, 3)
        self.unused = nn.Parameter(torch.ones(2, 2))

    def forward(self, x):
        features = self.body(x)
        return features, self.taught(features), self.judged(features)


def make_problem(seed):
    """Inner and outer loss of a student, its parameters, and meta parameters, in float64.

    The inner loss distils the judged head, held fixed, into the taught one, each sample weighted by the meta
    parameters: so the judged head has no gradient of its own in inner steps, nor the taught head in outer ones.
    """
    torch.manual_seed(seed)
    student = Student().double()
    meta = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in [(6,), ()]]
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.randint(3, (8,))

    def run(theta):
        buffers = {name: value.clone() for name, value in student.named_buffers()}
        return functional_call(student, {**theta, **buffers}, (x,))

    def inner_loss(theta):
        features, taught, judged = run(theta)
        weights = torch.sigmoid(features @ meta[0] + meta[1])
        teacher = torch.log_softmax(judged.detach(), dim=1)
        kl = nn.functional.kl_div(torch.log_softmax(taught, dim=1), teacher, reduction="none", log_target=True).sum(1)
        return (weights * (kl + nn.functional.cross_entropy(taught, y, reduction="none"))).mean()

    def outer_loss(theta):
        return nn.functional.cross_entropy(run(theta)[2], y)

    return inner_loss, outer_loss, dict(student.named_parameters()), meta


def assert_agree(ours, expected, relative=1e-10):
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= relative * b.abs().max() + 1e-14


def test_paper_setting_is_the_unrolled_gradient(unrolled):
    problem = make_problem(0)
    options = dict(inner_steps=2, outer_steps=1, lr=0.1, momentum=0.9, weight_decay=5e-4)
    ours = hypergradient(*problem, **options)
    assert all((gradient != 0).any() for gradient in ours)
    assert_agree(ours, unrolled(*problem, **options))


options = dict(
    seed=st.integers(0, 2**32),
    inner_steps=st.integers(1, 3),
    outer_steps=st.integers(0, 2),
    lr=st.floats(1e-3, 0.5),
    momentum=st.floats(0, 0.99),
    weight_decay=st.floats(0, 0.1),
)


@settings(max_examples=15, deadline=None)
@given(**options)
def test_any_steps_are_the_unrolled_gradient(unrolled, seed, **options):
    problem = make_problem(seed)
    assert_agree(hypergradient(*problem, **options), unrolled(*problem, **options))


@pytest.mark.full
@settings(max_examples=300, deadline=None)
@given(**options)
def test_any_steps_are_the_unrolled_gradient_at_length(unrolled, seed, **options):
    problem = make_problem(seed)
    assert_agree(hypergradient(*problem, **options), unrolled(*problem, **options))


def test_steps_are_those_of_torch_sgd():
    """Central differences through torch.optim.SGD, of smooth losses with nothing detached."""
    torch.manual_seed(0)
    start = {"a": torch.randn(3, dtype=torch.float64), "b": torch.randn(3, dtype=torch.float64)}
    meta = torch.randn(3, dtype=torch.float64)
    virtual = dict(lr=0.2, momentum=0.8, weight_decay=0.1)

    def inner_loss(theta, meta):
        return (torch.tanh(meta) * theta["a"] ** 2).sum() + torch.sin(theta["a"] * theta["b"] * meta).sum()

    def outer_loss(theta):
        return torch.cos(theta["a"] + 2 * theta["b"]).sum()

    def result_of_training(meta):
        theta = {name: value.clone().requires_grad_() for name, value in start.items()}
        optimizer = torch.optim.SGD(theta.values(), **virtual)
        for step in range(4):
            optimizer.zero_grad()
            loss = inner_loss(theta, meta) if step < 3 else outer_loss(theta)
            loss.backward()
            optimizer.step()
        return outer_loss(theta).item()

    leaf = meta.clone().requires_grad_()
    (ours,) = hypergradient(
        lambda theta: inner_loss(theta, leaf), outer_loss, start, [leaf], inner_steps=3, outer_steps=1, **virtual
    )
    step = 1e-5 * torch.eye(3, dtype=torch.float64)
    expected = [(result_of_training(meta + d) - result_of_training(meta - d)) / 2e-5 for d in step]
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-8)


def test_authors_toy_problem():
    with numpy.load(GOLDEN) as file:
        toy = {name: torch.from_numpy(file[name]) for name in file.files}
    meta = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    (ours,) = hypergradient(
        lambda theta: (theta["v1"] ** 2).mean() + (meta * theta["v2"] ** 2).sum(),
        lambda theta: (theta["v1"] * theta["v2"]).mean(),
        {"v1": toy["v1_init"], "v2": toy["v2_init"]},
        [meta],
        inner_steps=int(toy["inner_steps"]),
        outer_steps=0,
        lr=float(toy["lr"]),
        momentum=float(toy["momentum"]),
        weight_decay=float(toy["weight_decay"]),
    )
    assert_agree([ours], [toy["lmbd_grad_exact_unrolled"]], relative=1e-12)


def test_a_meta_parameter_without_influence_has_gradient_zero():
    inner_loss, outer_loss, params, meta = make_problem(0)
    idle = torch.ones(3, requires_grad=True)
    ours = hypergradient(inner_loss, outer_loss, params, [idle, *meta], inner_steps=2, lr=0.1)
    assert ours[0].equal(torch.zeros(3))
    assert all((gradient != 0).any() for gradient in ours[1:])


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        (lambda a, m: (m * a).sum(), lambda a: (a**3).sum()),
        (lambda a, m: (m * a**2).sum(), lambda a: a.sum()),
        (lambda a, m: (m * a).sum(), lambda a: a.sum()),
    ],
    ids=["linear inner loss", "linear outer loss", "both"],
)
def test_linear_losses(unrolled, inner, outer):
    a, m = torch.rand(2, 3, dtype=torch.float64).unbind()
    m.requires_grad_()
    options = dict(inner_steps=2, outer_steps=1, lr=0.1, momentum=0.9, weight_decay=0.01)
    problem = (lambda theta: inner(theta["a"], m), lambda theta: outer(theta["a"]), {"a": a}, [m])
    assert_agree(hypergradient(*problem, **options), unrolled(*problem, **options))


@pytest.mark.parametrize(
    "inner",
    [lambda a, m: (a**2).sum(), lambda a, m: (m**2).sum(), lambda a, m: a.sum()],
    ids=["of the parameters alone", "of the meta parameters alone", "linear, of the parameters alone"],
)
def test_meta_parameters_that_move_nothing_have_gradient_zero(inner):
    a, m = torch.ones(3), torch.ones(2, requires_grad=True)
    ours = hypergradient(
        lambda theta: inner(theta["a"], m), lambda theta: (theta["a"] ** 2).sum(), {"a": a}, [m], inner_steps=2, lr=0.1
    )
    assert ours[0].equal(torch.zeros(2))


def test_parameters_and_gradients_are_left_as_they_are():
    inner_loss, outer_loss, params, meta = make_problem(0)
    for value in [*params.values(), *meta]:
        value.grad = torch.full_like(value, 3.0)
    before = {name: value.detach().clone() for name, value in params.items()}
    hypergradient(inner_loss, outer_loss, params, meta, inner_steps=2, lr=0.1)
    assert all(value.equal(before[name]) for name, value in params.items())
    assert all((value.grad == 3).all() for value in [*params.values(), *meta])
