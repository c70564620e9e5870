"""ShuffleNetV2: wiring against torchvision's blocks, and sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.shufflenetv2 import InvertedResidual

from mcl_lab.networks.shufflenet_v2 import ShuffleNetV2


def layers(module):
    """Convolutions and BatchNorms in the order of use."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]


@settings(max_examples=15, deadline=None)
@given(
    stages=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([2, 4, 6, 10])), min_size=1, max_size=3),
    training=st.booleans(),
)
def test_stages_are_those_of_torchvision_blocks(stages, training):
    blocks, widths = zip(*stages, strict=True)
    torch.manual_seed(0)
    network = ShuffleNetV2(7, blocks=blocks, widths=widths, last_width=9).double()
    reference, channels = nn.ModuleList(), 24
    for count, width in stages:
        basic = [InvertedResidual(width, width, stride=1) for _ in range(count)]
        reference.append(nn.Sequential(InvertedResidual(channels, width, stride=2), *basic))
        channels = width
    reference = reference.double()
    for ours, theirs in zip(layers(network.stages), layers(reference), strict=True):
        theirs.load_state_dict(ours.state_dict())
    network.train(training)
    reference.train(training)

    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    convolution, norm = layers(network.stem)
    expected = torch.relu(norm(nn.functional.conv2d(images, convolution.weight, padding=1)))
    for stage, tap in zip(reference, network.taps(images), strict=True):
        expected = stage(expected)
        torch.testing.assert_close(tap, expected, rtol=1e-10, atol=1e-10)
    convolution, norm = layers(network.neck)
    embedding = torch.relu(norm(nn.functional.conv2d(expected, convolution.weight))).mean((2, 3))
    assert embedding.shape == (3, 9)
    logits = embedding @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(images), logits, rtol=1e-10, atol=1e-10)


def test_stem_keeps_the_size_and_each_stage_halves_it():
    network = ShuffleNetV2(100, blocks=[3, 7, 3], widths=[48, 96, 192])
    with torch.no_grad():
        images = torch.zeros(2, 3, 32, 32)
        assert network.stem(images).shape == (2, 24, 32, 32)
        taps = network.taps(images)
    assert [tuple(tap.shape) for tap in taps] == [(2, 48, 16, 16), (2, 96, 8, 8), (2, 192, 4, 4)]


def test_no_convolution_has_a_bias():
    network = ShuffleNetV2(10, blocks=[1, 1], widths=[4, 8])
    assert all(getattr(layer, "bias", None) is None for layer in layers(network) if isinstance(layer, nn.Conv2d))


def test_what_cannot_be_built():
    with pytest.raises(ValueError, match="blocks and widths"):
        ShuffleNetV2(10, blocks=[1, 1], widths=[4])
    with pytest.raises(ValueError, match="even.* not 7"):
        ShuffleNetV2(10, blocks=[1, 1], widths=[4, 7])
