"""What networks and their branches start from, family by family."""

import math

import pytest
import torch
from test_counts import from_config
from torch import nn

from mcl_lab.networks.cohort import Peer


def he_normal(layer):
    """Standard deviation of normal values for the fan out, no bound."""
    return math.sqrt(2 / (layer.out_channels * math.prod(layer.kernel_size))), math.inf


def pytorch_uniform(layer):
    """Standard deviation and bound of PyTorch's own values."""
    bound = 1 / math.sqrt(layer.weight[0].numel())
    return bound / math.sqrt(3), bound


# values of convolutions, whether the network's linear bias is 0, whether its branches' are
FAMILIES = {
    "resnet32": (he_normal, False, True),
    "resnet110": (he_normal, False, True),
    "wrn_16_2": (he_normal, True, True),
    "shufflenetv2_05x": (pytorch_uniform, False, False),
    "hcgnet_a1": (pytorch_uniform, False, False),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_initial_values(name):
    convolutions, own_zero, branch_zero = FAMILIES[name]
    torch.manual_seed(0)
    peer = Peer(from_config(name), branches=True)
    for key, layer in peer.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            std, bound = convolutions(layer) if isinstance(layer, nn.Conv2d) else pytorch_uniform(layer)
            values = layer.weight.flatten()
            assert abs(values.std().item() / std - 1) < 5.5 / math.sqrt(2 * len(values)), key  # standard errors
            assert abs(values.mean().item()) < 5.5 * std / math.sqrt(len(values)), key
            assert values.abs().max() <= bound * (1 + 1e-6), key
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all(), key
            assert (layer.running_mean == 0).all() and (layer.running_var == 1).all(), key
    assert (peer.network.classifier.bias == 0).all() == own_zero
    assert all((branch.classifier.bias == 0).all() == branch_zero for branch in peer.branches)
