"""Frozen, shared, tied and lazily made parameters in networks and their branches."""

import pytest
import torch
from torch import nn

from mcl_lab.networks.cohort import Peer
from mcl_lab.networks.resnet import ResNet
from mcl_lab.networks.staged import StagedNetwork
from mcl_lab.networks.torchvision_backbone import TorchvisionBackbone
from mcl_lab.training.measurement import multi_adds, parameters

C = 5


def stage(channels=4):
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 3, 2, 1), nn.BatchNorm2d(channels))


def staged(stages, neck, width=4):
    return StagedNetwork(nn.Conv2d(3, 4, 3, padding=1), stages, neck, width=width, num_classes=C)


def pretrained(network):
    """With values that nothing draws, running statistics among them."""
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(7)
    return network


def resnet():
    return ResNet(C, block="basic", blocks=[1, 1, 1], widths=[4, 5, 6])


def torchvision_resnet():
    stages = [["layer1"], ["layer2"], ["layer3"]]
    return TorchvisionBackbone(C, model="resnet18", stem=["conv1", "bn1", "relu"], stages=stages)


@pytest.mark.parametrize("family", [resnet, torchvision_resnet])
def test_branches_keep_frozen_stages_and_draw_the_others_anew(family):
    """As they were trained, with the statistics that belong to them, whatever `initialise` does."""
    network = pretrained(family())
    network.stages[2].requires_grad_(False)
    for k, branch in enumerate(Peer(network, branches=True).branches):
        *drawn, kept = branch.stages
        assert len(drawn) == 1 - k
        assert all((value == 7).all() for value in kept.state_dict().values())
        assert not any(value.requires_grad for value in kept.parameters())
        for part in (*drawn, branch.classifier):
            assert all((value != 7).any() for value in part.state_dict().values())
            assert all(value.requires_grad for value in part.parameters())


def test_branches_keep_a_single_frozen_parameter():
    """A fixed filter with a bias that is trained."""
    network = staged([stage(), nn.Conv2d(4, 4, 3)], nn.ReLU())
    fixed = pretrained(network).stages[1]
    fixed.weight.requires_grad_(False)
    copied = Peer(network, branches=True).branches[0].stages[0]
    assert copied.weight.equal(fixed.weight) and not copied.weight.requires_grad
    assert (copied.bias != 7).any() and copied.bias.requires_grad


def test_branches_share_what_their_network_shares():
    """One stage as the second and third, its convolution as the neck; and nothing of it with the network."""
    shared = stage()
    network = staged([stage(), shared, shared], shared[1])
    first, second = Peer(network, branches=True).branches
    assert first.stages[0] is first.stages[1] and first.stages[0][1] is first.neck
    assert second.stages[0][1] is second.neck
    of_a_stage, of_a_head = 4 * 4 * 9 + 4 + 2 * 4, 4 * C + C
    assert parameters(first) == parameters(second) == of_a_stage + of_a_head
    assert parameters(network) == 4 * 3 * 9 + 4 + 2 * of_a_stage + of_a_head
    assert not {id(value) for value in network.parameters()} & {id(value) for value in first.parameters()}
    assert not first.neck.weight.equal(shared[1].weight)


def test_branches_tie_what_their_network_ties():
    neck, later = nn.Conv2d(4, 4, 3), stage()
    neck.weight = later[1].weight
    branch = Peer(staged([stage(), later], neck), branches=True).branches[0]
    assert branch.neck.weight is branch.stages[0][1].weight
    assert branch.neck.weight is not neck.weight


class Drawn(StagedNetwork):
    """With initial values of its own."""

    def initialise(self, module):
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.constant_(layer.bias, 0.25)


def plain_or_lazy(lazy):
    def convolution(channels, width):
        return nn.LazyConv2d(width, 3, 2, 1) if lazy else nn.Conv2d(channels, width, 3, 2, 1)

    def normalisation(width):
        return nn.LazyBatchNorm2d() if lazy else nn.BatchNorm2d(width)

    stages = [nn.Sequential(convolution(4 + k, 5 + k), normalisation(5 + k), nn.Dropout()) for k in range(2)]
    return Drawn(convolution(3, 4), stages, convolution(6, 7), width=7, num_classes=C)


def test_lazy_layers_are_as_if_their_sizes_were_given():
    lazy, plain = (Peer(plain_or_lazy(lazy), branches=True) for lazy in (True, False))

    def kinds(peer):
        return [(name, tuple(value.shape)) for name, value in peer.named_parameters()]

    assert kinds(lazy) == kinds(plain)
    assert lazy.state_dict().keys() == plain.state_dict().keys()
    assert all(module.training for module in lazy.modules())
    assert lazy.network.stages[0][1].num_batches_tracked == 0
    for part in (lazy.network, lazy.branches[0]):
        biases = [layer.bias for layer in part.modules() if isinstance(layer, nn.Conv2d)]
        assert all((bias == 0.25).all() for bias in biases) and len(biases) > 1
    assert (parameters(lazy), multi_adds(lazy, 8)) == (parameters(plain), multi_adds(plain, 8))
    lazy.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 8, 8)
    for ours, theirs in zip(lazy.eval()(images), plain.eval()(images), strict=True):
        assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))
