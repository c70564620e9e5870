"""Networks of one's own that begin a stage in place, or keep what cannot be copied."""

import copy
import warnings

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from mcl_lab.assembly.learners import build_learners
from mcl_lab.assembly.restore import untrained
from mcl_lab.config.compose import compose
from mcl_lab.errors import InputError
from mcl_lab.networks.cohort import Peer
from mcl_lab.networks.staged import StagedNetwork
from mcl_lab.tasks.summary import summary

B, C, D = 4, 5, 6
FIRST = {
    "relu": [nn.ReLU(inplace=True)],
    "behind dropout": [nn.Dropout(0.0), nn.Identity(), nn.LeakyReLU(0.5, inplace=True)],
    "in a chain": [nn.Sequential(nn.Sequential(), nn.Sequential(nn.ReLU6(inplace=True)))],
    "dropout": [nn.Dropout(0.5, inplace=True)],
}


class Plain(StagedNetwork):
    """README's, with stages that begin with any layers. first: makes them, for each stage anew."""

    def __init__(self, num_classes, first=lambda: [nn.ReLU(inplace=True)], stages=3):
        parts = [nn.Sequential(*first(), nn.Conv2d(D, D, 3, 2, 1), nn.BatchNorm2d(D)) for _ in range(stages)]
        super().__init__(nn.Conv2d(3, D, 3, 1, 1), parts, nn.ReLU(inplace=True), width=D, num_classes=num_classes)


class PassesOn(Plain):
    """Its last stage changes nothing, so that its neck begins in place on a tap."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.stages[-1] = nn.Sequential(nn.Identity())


class Doubled(nn.Module):
    def forward(self, features):
        return features.mul_(2)


class Writes(Plain):
    def __init__(self, num_classes):
        super().__init__(num_classes, lambda: [])
        self.stages[1].insert(0, Doubled())


class WeightNorm(Plain):
    """where: the part whose convolution has its weight computed by PyTorch's older weight normalisation."""

    def __init__(self, num_classes, where="stages.1.1"):
        super().__init__(num_classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            nn.utils.weight_norm(self.get_submodule(where))


class Unlike(Plain):
    def check(self):
        raise ValueError("is not what its arguments say")


@pytest.fixture
def images():
    return torch.randn(B, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def outcome(peer, images):
    """Logits of all heads and every gradient, of one step in training."""
    torch.manual_seed(1)
    _, logits = peer(images)
    sum(nn.functional.cross_entropy(scores, torch.arange(B)) for scores in logits).backward()
    return [*logits, *(value.grad for value in peer.parameters())]


def not_in_place(network):
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return network


def small(target, loss="lmcl_uniform", **arguments):
    config = compose(["pair=single/resnet8", f"loss={loss}", "trainer=cpu", "tracking=none", "data.batch_size=8"])
    node = {"name": "own", "_target_": f"{__name__}.{target.__name__}", **arguments}
    config.pair.peers.a = OmegaConf.create(node)
    return config


def build(target, loss="lmcl_uniform", **arguments):
    return build_learners(small(target, loss, **arguments), C, torch.device("cpu"), (16, 16))


@pytest.mark.parametrize("first", FIRST)
def test_a_stage_may_begin_in_place(first, images):
    """To the bit what it is when nothing is in place."""
    torch.manual_seed(0)
    network = Plain(C, lambda: copy.deepcopy(FIRST[first]))
    other = not_in_place(copy.deepcopy(network))
    torch.manual_seed(1)
    ours = outcome(Peer(network, branches=True), images)
    torch.manual_seed(1)
    theirs = outcome(Peer(other, branches=True), images)
    assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))


def test_a_network_without_branches_is_left_as_it_is():
    network = Plain(C)
    Peer(network, branches=False)
    assert all(stage[0].inplace for stage in network.stages)


def test_a_neck_that_is_given_a_tap_spares_it(images):
    torch.manual_seed(0)
    peer = Peer(PassesOn(C), branches=True).eval()
    with torch.no_grad():
        taps = peer.network.taps(images)
        before = [tap.clone() for tap in taps]
        peer.network.embed(taps[-1])
    assert all(tap.equal(kept) for tap, kept in zip(taps, before, strict=True))


def test_own_networks_that_begin_in_place_are_built():
    assert build(Plain).cohort.heads == [3]


def test_another_operation_in_place_is_named_by_its_stage():
    with pytest.raises(InputError, match=r"^pair\.peers\.a: .*stages\[1\] writes into the output of stages\[0\]"):
        build(Writes)
    assert build(Writes, "baseline").cohort.heads == [1]  # no branch reads what is written into


@pytest.mark.parametrize("where", ["stages.1.1", "stages.2.1"])
def test_a_layer_that_cannot_be_copied_is_named(where, capsys):
    with pytest.raises(InputError, match=r"^pair\.peers\.a: .*Conv2d.*weight.*parametrizations\.weight_norm"):
        build(WeightNorm, where=where)
    assert build(WeightNorm, "baseline", where=where).cohort.heads == [1]
    with pytest.raises(InputError, match=r"^pair\.peers\.a: .*parametrizations\.weight_norm"):
        summary(small(WeightNorm, where=where))


def test_a_stem_is_not_copied():
    assert build(WeightNorm, where="stem").cohort.heads == [3]


def test_what_a_network_refuses_of_itself_is_said_before_training_and_not_of_a_finished_run():
    with pytest.raises(InputError, match=r"^pair\.peers\.a: is not what its arguments say"):
        build(Unlike)
    config = small(Unlike)
    assert build_learners(config, C, torch.device("cpu"), (16, 16), trained=True).cohort.heads == [3]
    assert untrained(config.pair.peers.a, "a", C).num_classes == C
