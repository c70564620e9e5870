"""The meta event of small cohorts: the exact gradient, and nothing else touched.

B batch.
"""

import copy
import random
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import nn
from torch.func import functional_call

from mcl_lab.assembly.learners import build_learners
from mcl_lab.assembly.method import build_meta_event
from mcl_lab.config.compose import compose
from mcl_lab.losses.mutual_contrastive import MutualContrastiveLearning
from mcl_lab.losses.virtual import VirtualLosses
from mcl_lab.meta.event import MetaEvent
from mcl_lab.meta.weight_network import WeightNetwork
from mcl_lab.networks.cohort import Cohort
from mcl_lab.networks.resnet import ResNet
from mcl_lab.networks.staged import StagedNetwork
from mcl_lab.training.randomness import random_states, set_random_states

B, LR = 8, 0.1
STEPS = dict(inner_steps=2, outer_steps=1, momentum=0.9, weight_decay=5e-4)  # the paper's


class WithDropout(StagedNetwork):
    """Two stages, a neck with BatchNorm, dropout in both stages."""

    def __init__(self):
        stages = [
            nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Dropout(0.3), nn.MaxPool2d(2))
            for channels in (4, 6)
        ]
        neck = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        super().__init__(nn.Conv2d(3, 4, 3, padding=1), stages, neck, width=6, num_classes=4)


class RandomDepth(nn.Module):
    """A layer that is left out at random, by the draws of Python and of NumPy."""

    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + random.random() * numpy.random.random() * self.layer(x)


class WithRandomDepth(StagedNetwork):
    def __init__(self):
        stages = [nn.Sequential(RandomDepth(4), nn.MaxPool2d(2)) for _ in range(2)]
        super().__init__(nn.Conv2d(3, 4, 3, padding=1), stages, nn.ReLU(), width=4, num_classes=4)


def with_frozen_parts():
    """A stage, a bias and a tensor of integers."""
    network = small_resnet()
    network.stages[1].requires_grad_(False)
    network.classifier.bias.requires_grad_(False)
    network.places = nn.Parameter(torch.arange(3), requires_grad=False)
    return network


def stage_of(channels):
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.Tanh())


class WithSharedStage(StagedNetwork):
    """A stage that is there twice, whose BatchNorm is the neck, too."""

    def __init__(self):
        shared = stage_of(4)
        super().__init__(nn.Conv2d(3, 4, 3), [stage_of(4), shared, shared], shared[1], width=4, num_classes=4)


class WithTiedWeights(StagedNetwork):
    """One weight in two stages and the neck, and another one, frozen, in the stem and a stage."""

    def __init__(self):
        stages, neck = [stage_of(3) for _ in range(3)], nn.Conv2d(3, 3, 3)
        stages[2][0].weight = neck.weight = stages[1][0].weight
        stem = nn.Conv2d(3, 3, 3)
        stem.weight = stages[0][0].weight
        stem.weight.requires_grad_(False)
        super().__init__(stem, stages, neck, width=3, num_classes=4)


def small_resnet(widths=(4, 8, 8)):
    return ResNet(4, block="basic", blocks=[1] * len(widths), widths=widths)


COHORTS = {
    "homogeneous": lambda: {"a": small_resnet(), "b": small_resnet()},
    "heterogeneous": lambda: {"a": small_resnet(), "b": small_resnet((3, 5))},
    "with dropout": lambda: {"a": WithDropout(), "b": small_resnet((3, 5))},
    "with random depth": lambda: {"a": WithRandomDepth(), "b": small_resnet((3, 5))},
    "frozen": lambda: {"a": with_frozen_parts(), "b": small_resnet((3, 5)).requires_grad_(False)},
    "shared": lambda: {"a": WithSharedStage(), "b": small_resnet((3, 5))},
    "tied": lambda: {"a": WithTiedWeights(), "b": small_resnet((3, 5))},
}


def make(networks=COHORTS["homogeneous"], dtype=torch.float64, autocast=None, every=50, **steps):
    """A cohort, its projection heads and weight network, the event that trains the latter, and a batch."""
    torch.manual_seed(0)
    cohort = Cohort(networks(), branches=True, autocast=autocast).to(dtype)
    contrastive = MutualContrastiveLearning(cohort.widths, cohort.heads, width=10).to(dtype)
    weight_network = WeightNetwork(cohort.widths, cohort.heads, width=10).to(dtype)
    losses = VirtualLosses(cohort, [contrastive])
    optimizer = torch.optim.SGD(weight_network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return SimpleNamespace(
        event=MetaEvent(losses, weight_network, optimizer, every=every, **{**STEPS, **steps}),
        losses=losses,
        weight_network=weight_network,
        optimizer=optimizer,
        main_optimizer=torch.optim.SGD(losses.parameters(), lr=LR, momentum=0.9),
        images=torch.randn(B, 3, 8, 8, dtype=dtype),
        labels=torch.arange(B) // 2,
    )


def after_a_step(parts):
    """The same after one update by each optimizer, so that all states hold something."""
    parts.losses(parts.images, parts.labels, parts.weight_network).backward()
    parts.main_optimizer.step()
    parts.optimizer.step()
    return parts


def whole_state(parts):
    """Copies of all that an event might touch, by name."""
    named = {
        **{f"losses {name}": value for name, value in parts.losses.named_parameters()},
        **{f"weight network {name}": value for name, value in parts.weight_network.named_parameters()},
    }
    optimizers = {"main": parts.main_optimizer.state_dict(), "weight network": parts.optimizer.state_dict()}
    return {
        **{f"value of {name}": value.detach().clone() for name, value in named.items()},
        **{f"gradient of {name}": None if value.grad is None else value.grad.clone() for name, value in named.items()},
        **{f"identity of {name}": id(value) for name, value in named.items()},
        **{f"whether {name} is trained": value.requires_grad for name, value in named.items()},
        **{f"buffer {name}": value.clone() for name, value in parts.losses.named_buffers()},
        **{f"{name} in training": module.training for name, module in parts.losses.named_modules()},
        **{
            f"{name} optimizer {number} {key}": copy.deepcopy(value)
            for name, state in optimizers.items()
            for number, values in state["state"].items()
            for key, value in values.items()
        },
        "torch random state": torch.get_rng_state(),
        "numpy random state": numpy.random.get_state()[1].tolist(),
        "python random state": random.getstate(),
        "gradient mode": torch.is_grad_enabled(),
    }


def assert_unchanged(before, after):
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
        assert same, name


def assert_agree(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        assert b.abs().max() > 0
        assert (a - b).abs().max() <= 1e-10 * b.abs().max()


def by_unrolling(unrolled, parts, lr=LR, **steps):
    """The event's hypergradient by plain unrolling; every forward draws the same."""
    losses = copy.deepcopy(parts.losses)  # functional_call leaves its values in a shared module
    states = random_states()

    def loss(theta, weight_network):
        set_random_states(states)
        buffers = {name: value.clone() for name, value in losses.named_buffers()}
        return functional_call(losses, {**theta, **buffers}, (parts.images, parts.labels, weight_network))

    gradients = unrolled(
        lambda theta: loss(theta, parts.weight_network),
        lambda theta: loss(theta, None),
        {name: value for name, value in losses.named_parameters() if value.requires_grad},
        [value for value in parts.weight_network.parameters() if value.requires_grad],
        lr=lr,
        **{**STEPS, **steps},
    )
    set_random_states(states)
    return gradients


@pytest.mark.parametrize("networks", COHORTS.values(), ids=COHORTS)
def test_hypergradient_is_the_unrolled_one(unrolled, networks):
    parts = make(networks)
    expected = by_unrolling(unrolled, parts)
    assert_agree(parts.event.hypergradient(parts.images, parts.labels, LR), expected)


@pytest.mark.full
@pytest.mark.parametrize("inner_steps", [1, 2, 3])
@pytest.mark.parametrize("outer_steps", [0, 1, 2])
@pytest.mark.parametrize("networks", COHORTS.values(), ids=COHORTS)
def test_hypergradient_of_other_steps(unrolled, networks, inner_steps, outer_steps):
    steps = dict(inner_steps=inner_steps, outer_steps=outer_steps, momentum=0.7, weight_decay=0.01)
    parts = after_a_step(make(networks, **steps))
    expected = by_unrolling(unrolled, parts, lr=0.03, **steps)
    assert_agree(parts.event.hypergradient(parts.images, parts.labels, 0.03), expected)


@pytest.mark.parametrize("kind", ["frozen", "shared", "tied"])
def test_hypergradient_is_that_of_training_copies_by_torch_sgd(kind):
    """Central differences; PyTorch's optimizer knows by itself what is frozen, and what is one parameter in two places."""
    parts = make(COHORTS[kind], inner_steps=1)
    direction = [torch.randn_like(value) for value in parts.weight_network.parameters()]

    def result_of_training(distance):
        losses, weight_network = copy.deepcopy((parts.losses, parts.weight_network))
        with torch.no_grad():
            for value, way in zip(weight_network.parameters(), direction, strict=True):
                value += distance * way
        optimizer = torch.optim.SGD(losses.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
        for judge in (weight_network, None):
            optimizer.zero_grad()
            loss = losses(parts.images, parts.labels, judge)
            # virtual steps also decay what a loss does not depend on
            (loss + 0 * sum(value.sum() for value in losses.parameters() if value.requires_grad)).backward()
            optimizer.step()
        return losses(parts.images, parts.labels, None).item()

    expected = (result_of_training(1e-6) - result_of_training(-1e-6)) / 2e-6
    gradients = parts.event.hypergradient(parts.images, parts.labels, LR)
    ours = sum((gradient * way).sum() for gradient, way in zip(gradients, direction, strict=True))
    assert abs(ours - expected) < 1e-6 * abs(expected)


def test_frozen_parameters_of_the_weight_network_stay_as_they_are(unrolled):
    parts = make()
    frozen = parts.weight_network.projections[0][0].weight.requires_grad_(False)
    before, all_before = frozen.clone(), [value.clone() for value in parts.weight_network.parameters()]
    gradients = parts.event.hypergradient(parts.images, parts.labels, LR)
    assert_agree(gradients, by_unrolling(unrolled, parts))
    parts.event.apply(gradients)
    assert frozen.equal(before)
    unchanged = [a.equal(b) for a, b in zip(parts.weight_network.parameters(), all_before, strict=True)]
    assert unchanged.count(True) == 1


def test_paper_recipe_from_the_config(unrolled):
    """As a run builds them, the objective leaves the weight network alone, and the event gives its exact gradient."""
    small = [f"pair.peers.{peer}.{key}" for peer in "ab" for key in ("blocks=[1,1]", "widths=[3,4]")]
    torch.manual_seed(0)
    config = compose(["pair=resnet8", "loss=lmcl", *small])
    learners = build_learners(config, 4, torch.device("cpu"))
    for module in (learners.cohort, learners.objective, learners.weight_network):
        module.double()
    optimizer = torch.optim.SGD(learners.weight_network.parameters(), lr=LR)
    event = build_meta_event(config.loss.meta_event, learners, optimizer)
    parts = SimpleNamespace(
        losses=learners.virtual_losses,
        weight_network=learners.weight_network,
        images=torch.randn(B, 3, 8, 8, dtype=torch.float64),
        labels=torch.arange(B) // 2,
    )
    assert [batch for batch in range(200) if event.due(batch)] == [0, 50, 100, 150]
    assert_agree(event.hypergradient(parts.images, parts.labels, LR), by_unrolling(unrolled, parts))

    def terms():
        return learners.objective(learners.cohort(parts.images), parts.labels)

    sum(terms().values()).backward()
    assert all(value.grad is None for value in learners.weight_network.parameters())
    virtual = {id(value) for value in learners.virtual_losses.parameters()}
    assert all((id(value) in virtual) != (".aggregator" in f".{name}") for name, value in named_parameters(learners))
    before = terms()
    with torch.no_grad():
        learners.weight_network.projections[0][0].weight.neg_()
    changed = {name for name, value in terms().items() if value != before[name]}
    assert changed == {"vcl", "soft_vcl", "icl", "soft_icl"}


@pytest.mark.parametrize("kind", ["with dropout", "frozen", "shared", "tied"])
def test_event_leaves_everything_as_it_was(kind):
    parts = after_a_step(make(COHORTS[kind], dtype=torch.float32))
    before = whole_state(parts)
    first = parts.event.hypergradient(parts.images, parts.labels, LR)
    assert_unchanged(before, whole_state(parts))
    again = parts.event.hypergradient(parts.images, parts.labels, LR)
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))


class Stop(BaseException):
    """As a signal's KeyboardInterrupt, it is no Exception."""


@pytest.mark.parametrize("during", ["forward", "backward"])
def test_event_may_be_broken_off_anywhere(during):
    parts = after_a_step(make(COHORTS["with dropout"], dtype=torch.float32))
    before, calls = whole_state(parts), 0

    def hook(module, inputs, output):
        if during == "forward":
            count()
        elif output.requires_grad:
            output.register_hook(count)

    def count(gradient=None):
        nonlocal calls
        calls += 1
        if calls == last_call:
            raise Stop

    last_call = 0  # never
    parts.losses.cohort.peers["b"].network.stages[1].register_forward_hook(hook)
    undisturbed = parts.event.hypergradient(parts.images, parts.labels, LR)
    total = calls
    assert total >= 6
    for last_call in range(1, total + 1):  # noqa: B007 (the loss reads it)
        calls = 0
        with pytest.raises(Stop):
            parts.event.hypergradient(parts.images, parts.labels, LR)
        assert_unchanged(before, whole_state(parts))
    last_call = 0
    gradients = parts.event.hypergradient(parts.images, parts.labels, LR)
    assert all(a.equal(b) for a, b in zip(gradients, undisturbed, strict=True))


def test_apply_is_one_step_of_the_weight_networks_optimizer():
    parts, twin = (after_a_step(make()) for _ in range(2))
    gradients = parts.event.hypergradient(parts.images, parts.labels, LR)
    for value, gradient in zip(twin.weight_network.parameters(), gradients, strict=True):
        value.grad = gradient.clone()
    twin.optimizer.step()

    before = whole_state(parts)
    parts.event.apply(gradients)
    after, expected = whole_state(parts), whole_state(twin)
    touched = {name for name in before if "weight network" in name}
    assert_unchanged(*({name: state[name] for name in state.keys() - touched} for state in (before, after)))
    for name in touched:
        if name.startswith("value") or "momentum_buffer" in name:
            assert after[name].equal(expected[name]), name
            assert not after[name].equal(before[name]), name
    assert all(value.grad is None for value in parts.weight_network.parameters())


@pytest.mark.parametrize("every", [1, 7])
def test_due_after_batches_0_every_2_every(every):
    event = make(every=every).event
    assert [batch for batch in range(3 * every) if event.due(batch)] == [0, every, 2 * every]


def test_event_of_bfloat16_networks_points_the_same_way():
    """At small steps, which do not blow the rounding up."""
    gradients = []
    for autocast in (None, torch.bfloat16):
        parts = make(dtype=torch.float32, autocast=autocast)
        gradients.append(torch.cat([g.flatten() for g in parts.event.hypergradient(parts.images, parts.labels, 0.001)]))
    exact, rounded = gradients
    assert rounded.dtype == torch.float32
    assert not rounded.equal(exact)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.9


def named_parameters(learners):
    return [*learners.cohort.named_parameters(), *learners.objective.named_parameters()]
