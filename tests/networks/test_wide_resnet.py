"""WideResNet: wiring against blocks written out from the paper, and sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d, relu

from mcl_lab.networks.wide_resnet import WideResNet


class Block(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv; with a change of width the shortcut takes what the first ReLU puts out."""

    def __init__(self, channels, out_channels, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        if channels != out_channels:
            self.shortcut = nn.Conv2d(channels, out_channels, 1, stride, bias=False)

    def forward(self, x):
        if hasattr(self, "shortcut"):
            x = relu(self.bn1(x))
            return self.shortcut(x) + self.conv2(relu(self.bn2(self.conv1(x))))
        return x + self.conv2(relu(self.bn2(self.conv1(relu(self.bn1(x))))))


@settings(max_examples=12, deadline=None)
@given(depth=st.sampled_from([10, 16, 22]), widen_factor=st.integers(1, 3), training=st.booleans())
def test_stages_and_neck_are_those_of_the_paper(depth, widen_factor, training):
    torch.manual_seed(0)
    network = WideResNet(7, depth=depth, widen_factor=widen_factor).double()
    reference, channels = nn.ModuleList(), 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        stage = nn.Sequential()
        for position in range((depth - 4) // 6):
            stage.append(Block(channels, width * widen_factor, stride if position == 0 else 1))
            channels = width * widen_factor
        reference.append(stage)
    reference.append(nn.BatchNorm2d(channels))
    reference = reference.double()
    values = iter([*network.stages.state_dict().values(), *network.neck.state_dict().values()])
    reference.load_state_dict({name: next(values) for name in reference.state_dict()})  # in the order of use, both
    assert next(values, None) is None
    for layer in (*network.modules(), *reference.modules()):
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.running_mean, 0.1)
    network.train(training)
    reference.train(training)

    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    expected = conv2d(images, network.stem.weight, padding=1)
    for stage, tap in zip(reference[:3], network.taps(images), strict=True):
        expected = stage(expected)
        torch.testing.assert_close(tap, expected, rtol=1e-10, atol=1e-10)
        assert (tap < 0).any()  # a tap comes before its activation
    embedding = relu(reference[3](expected)).mean((2, 3))
    logits = embedding @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(images), logits, rtol=1e-10, atol=1e-10)


def test_each_stage_but_the_first_halves_the_size():
    with torch.no_grad():
        taps = WideResNet(100, depth=16, widen_factor=2).taps(torch.zeros(2, 3, 32, 32))
    assert [tuple(tap.shape) for tap in taps] == [(2, 32, 32, 32), (2, 64, 16, 16), (2, 128, 8, 8)]


@pytest.mark.parametrize("depth", [4, 12, 15, 17])
def test_depths_that_there_are_not(depth):
    with pytest.raises(ValueError, match=f"6 n \\+ 4.* not {depth}"):
        WideResNet(10, depth=depth, widen_factor=1)
