"""ResNet: wiring against torchvision's blocks, sizes and shortcuts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from mcl_lab.networks.resnet import ResNet

CIFAR = {"basic": [5, 5, 5], "bottleneck": [12, 12, 12]}  # ResNet-32 and ResNet-110


def cifar_resnet(block, num_classes=100):
    return ResNet(num_classes, block=block, blocks=CIFAR[block], widths=[16, 32, 64])


def torchvision_stages(block, blocks, widths):
    """The same stages from torchvision's blocks, whose projection shortcuts are handed in."""
    kind = {"basic": BasicBlock, "bottleneck": Bottleneck}[block]
    channels, stages = widths[0], []
    for index, (count, planes) in enumerate(zip(blocks, widths, strict=True)):
        stage, out_channels = [], planes * kind.expansion
        for position in range(count):
            stride = 2 if index > 0 and position == 0 else 1
            shortcut = None
            if stride == 2 or channels != out_channels:
                convolution = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
                shortcut = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))
            stage.append(kind(channels, planes, stride, shortcut))
            channels = out_channels
        stages.append(nn.Sequential(*stage))
    return nn.ModuleList(stages)


@settings(max_examples=15, deadline=None)
@given(
    block=st.sampled_from(["basic", "bottleneck"]),
    stages=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), min_size=1, max_size=4),
    training=st.booleans(),
)
def test_stages_are_those_of_torchvision_blocks(block, stages, training):
    blocks, widths = zip(*stages, strict=True)
    torch.manual_seed(0)
    network = ResNet(7, block=block, blocks=blocks, widths=widths).double()
    reference = torchvision_stages(block, blocks, widths).double()
    values = iter(network.stages.state_dict().values())  # both list each block's layers in the order of use
    reference.load_state_dict({name: next(values) for name in reference.state_dict()})
    network.train(training)
    reference.train(training)

    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    expected = torch.relu(network.stem[1](nn.functional.conv2d(images, network.stem[0].weight, padding=1)))
    for stage, tap in zip(reference, network.taps(images), strict=True):
        expected = stage(expected)
        torch.testing.assert_close(tap, expected, rtol=1e-10, atol=1e-10)
    logits = expected.mean((2, 3)) @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(images), logits, rtol=1e-10, atol=1e-10)
    assert logits.shape == (3, 7)
    assert network.width == widths[-1] * (4 if block == "bottleneck" else 1)


@pytest.mark.parametrize(("block", "channels"), [("basic", [16, 32, 64]), ("bottleneck", [64, 128, 256])])
def test_each_stage_but_the_first_halves_the_size(block, channels):
    with torch.no_grad():
        taps = cifar_resnet(block).taps(torch.zeros(2, 3, 32, 32))
    expected = [(2, width, size, size) for width, size in zip(channels, (32, 16, 8), strict=True)]
    assert [tuple(tap.shape) for tap in taps] == expected


@pytest.mark.parametrize(("block", "projected"), [("basic", {"1.0", "2.0"}), ("bottleneck", {"0.0", "1.0", "2.0"})])
def test_projection_shortcuts_are_where_width_or_size_changes(block, projected):
    layers = cifar_resnet(block).stages.named_modules()
    convolutions = {name: layer for name, layer in layers if isinstance(layer, nn.Conv2d)}
    assert {name.split(".shortcut")[0] for name in convolutions if ".shortcut" in name} == projected
    strided = {name: layer.kernel_size for name, layer in convolutions.items() if layer.stride == (2, 2)}
    assert len(strided) == 4  # in stages 2 and 3, one on the main path and one in the shortcut
    assert all(size == ((1, 1) if ".shortcut" in name else (3, 3)) for name, size in strided.items())


def test_as_many_widths_as_stages():
    with pytest.raises(ValueError, match="blocks and widths"):
        ResNet(10, block="basic", blocks=[1, 1], widths=[4])
