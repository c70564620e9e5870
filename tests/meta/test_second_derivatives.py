"""Second derivatives where PyTorch has none or wrong ones, and the trial of networks that are not ours."""

import copy
import random

import pytest
import second_derivatives as made
import torch
import torchvision
from test_closed_forms import STEPS, problem
from test_meta_event import make, small_resnet
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torchvision.models import regnet

from mcl_lab.assembly.learners import Learners
from mcl_lab.assembly.trial import try_meta_event
from mcl_lab.errors import InputError
from mcl_lab.losses.objective import Objective
from mcl_lab.meta.hypergradient import hypergradient
from mcl_lab.meta.second_derivatives import by_either, double_backward, forward_over_reverse
from mcl_lab.networks.staged import StagedNetwork


def plain_hardsigmoid(x):
    return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, x / 6 + 0.5))


def plain_attention(x):
    q, k, v = x.flatten(2).mT.unsqueeze(1).unbind(0)[0], x[1].flatten(1).mT[None], x[2].flatten(1).mT[None]
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


def attention(x):
    q, k, v = x.flatten(2).mT.unsqueeze(1).unbind(0)[0], x[1].flatten(1).mT[None], x[2].flatten(1).mT[None]
    return F.scaled_dot_product_attention(q[None], k[None], v[None])[0]


def ends(middle):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), middle, nn.Conv2d(4, 2, 1))


def whole(function):
    return nn.Sequential(nn.Conv2d(3, 4, 3), made.Of(function))


PAIRS = {
    "hardsigmoid": lambda: (ends(nn.Hardsigmoid()), ends(made.Of(plain_hardsigmoid))),
    "attention": lambda: (whole(attention), whole(plain_attention)),
}


@pytest.mark.parametrize("along", [forward_over_reverse, double_backward, by_either])
@pytest.mark.parametrize("name", PAIRS)
def test_hypergradient_is_that_of_the_same_network_in_plain_operations(name, along, unrolled):
    ours, plain = PAIRS[name]()
    (found,) = hypergradient(*problem(ours), **STEPS, along=along)
    (expected,) = unrolled(*problem(plain), **STEPS)
    assert expected.abs().max() > 0
    # PyTorch's gradient of hardsigmoid has a sixth in float32, whatever its input is
    assert (found - expected).abs().max() <= 1e-7 * expected.abs().max()


@pytest.mark.parametrize("along", [forward_over_reverse, double_backward, by_either])
def test_weight_normalisation(along, unrolled):
    """Whose plain unrolling by PyTorch is wrong, without an error."""
    ours = ends(weight_norm(nn.Conv2d(4, 4, 1)))
    inner, outer, params, meta = problem(ours)
    (found,) = hypergradient(inner, outer, params, meta, **STEPS, along=along)
    layer = ours[2]

    def plain(x):
        g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
        return F.conv2d(x, g * v / v.square().sum((1, 2, 3), keepdim=True).sqrt(), layer.bias)

    layer.forward = plain
    (expected,) = unrolled(inner, outer, params, meta, **STEPS)
    assert (found - expected).abs().max() <= 1e-11 * expected.abs().max()


class Cube(Function):
    """Whose backward forgets that it depends on x."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach()
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.x**2 * g


class OnceOnly(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Rounded(Function):
    """With a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx, g):
        return g


def gated(x):
    return x * x.detach().mean((2, 3), keepdim=True).sigmoid()


class Turned(nn.Module):
    """Channels by an orthogonal matrix, whose forward mode PyTorch has wrong."""

    def __init__(self):
        super().__init__()
        self.turn = orthogonal(nn.Linear(4, 4), orthogonal_map="cayley")

    def forward(self, x):
        return self.turn(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def twice():
    layer = nn.Conv2d(4, 4, 1)
    return nn.Sequential(layer, nn.ReLU(), layer)


class Own(StagedNetwork):
    def __init__(self, middle):
        stages = [nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4), middle()) for _ in range(2)]
        super().__init__(nn.Conv2d(3, 4, 3, padding=1), stages, nn.ReLU(), width=4, num_classes=4)


def trial(middle, autocast=None):
    """The event of an own network beside one of ours, tried."""
    parts = make(lambda: {"a": small_resnet((3, 5)), "b": Own(middle)}, dtype=torch.float32, autocast=autocast)
    terms = {"mutual_contrastive": parts.losses.weighted_terms[0]}
    learners = Learners(parts.losses.cohort, Objective(terms), parts.weight_network, parts.losses)
    before = copy.deepcopy(parts.losses.state_dict()), torch.get_rng_state(), random.getstate()
    parameters = [*map(id, parts.losses.parameters())]
    try_meta_event(parts.event, learners, (8, 8), channels_last=False)
    after = parts.losses.state_dict(), torch.get_rng_state(), random.getstate()
    assert all(value.equal(after[0][name]) for name, value in before[0].items())
    assert parameters == [*map(id, parts.losses.parameters())]
    assert before[1].equal(after[1]) and before[2] == after[2]
    return parts.event


TAKEN = {
    "plain": (nn.Identity, forward_over_reverse),
    "shared": (twice, forward_over_reverse),
    "weight norm": (lambda: weight_norm(nn.Conv2d(4, 4, 1)), forward_over_reverse),
    "hardsigmoid": (nn.Hardsigmoid, forward_over_reverse),
    "dropout": (lambda: nn.Dropout(0.3), forward_over_reverse),
    "group norm": (lambda: nn.GroupNorm(2, 4), double_backward),
    "spectral norm": (lambda: spectral_norm(nn.Conv2d(4, 4, 1)), double_backward),
    "orthogonal": (Turned, double_backward),
    "rounded": (lambda: made.Of(Rounded.apply), double_backward),
    "gated": (lambda: made.Of(gated), forward_over_reverse),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_network_that_is_not_ours_gets_the_way_that_is_right(name):
    middle, way = TAKEN[name]
    assert trial(middle).along is way


def test_the_trial_of_a_network_in_bfloat16():
    assert trial(lambda: nn.GroupNorm(2, 4), autocast=torch.bfloat16).along is double_backward


REFUSED = {
    "wrong": (lambda: made.Of(Cube.apply), "(Of): second derivatives of it are wrong"),
    "once": (lambda: made.Of(OnceOnly.apply), "(Of): second derivatives of it are wrong"),
    "deformable": (made.Offsets, ".layer (DeformConv2d): PyTorch has no second derivative of an operation in it"),
    "wrong beside what is held fixed": (
        lambda: nn.Sequential(spectral_norm(nn.Conv2d(4, 4, 1)), made.Of(Cube.apply)),
        ".1 (Of): second derivatives of it are wrong",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_without_right_second_derivatives_is_refused_by_its_module(name):
    middle, words = REFUSED[name]
    with pytest.raises(InputError) as refused:
        trial(middle)
    line = str(refused.value)
    assert line.startswith("pair.peers.b: network.stages.0.2") and words in line and "loss=lmcl_uniform" in line
    assert "\n" not in line


def test_ours_are_not_tried():
    parts = make()
    learners = Learners(parts.losses.cohort, Objective({}), parts.weight_network, parts.losses)
    parts.event.hypergradient = lambda *_: pytest.fail("tried")
    try_meta_event(parts.event, learners, (8, 8), channels_last=False)
    assert parts.event.along is by_either


@pytest.mark.full
def test_the_table_is_current():
    page = (made.ROOT / "docs" / "second_derivatives.md").read_text(encoding="utf-8")
    assert page == made.table(), made.__doc__


def nodes(output) -> set[str]:
    """Of the graph that made it."""
    found, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [next_node for next_node, _ in node.next_functions]
    return {node.name() for node in found}


@pytest.mark.full
def test_the_table_has_all_operations_of_torchvisions_classifiers(monkeypatch):
    """On paper (meta device), where copies into a part are written as strided views."""
    known = {"AsStridedBackward0", "AsStridedBackward1", "torch::autograd::CopySlices"}
    for name in made.LAYERS:
        module, x = made.make(name)
        known |= nodes(module(x.requires_grad_()).sum())
        if not any("arametriz" in part for part, _ in module.named_modules()) and name != "DropBlock2d":
            with torch.device("meta"):
                known |= nodes(module.to("meta")(x.detach().to("meta").requires_grad_()).sum())

    widths = regnet.BlockParams.from_init_params

    def on_cpu(*args, **kwargs):
        with torch.device("cpu"):
            return widths(*args, **kwargs)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", on_cpu)
    missing = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        with torch.device("meta"):
            network = torchvision.models.get_model(name, weights=None)
            output = network(torch.empty(2, 3, 299, 299) if "inception" in name else torch.empty(2, 3, 224, 224))
        logits = output if isinstance(output, torch.Tensor) else output.logits
        missing |= dict.fromkeys(nodes(logits) - known, name)
    assert missing == {}
