"""HCGNet: its units against their formulas written out, and sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d

from mcl_lab.networks.hcgnet import SMG, HCGNet, Transition


class Formulas:
    """The gates of a unit by plain tensor operations, on the unit's own layers, taken in the order of use."""

    def __init__(self, unit):
        self.training = unit.training
        kinds = {"conv": nn.Conv2d, "linear": nn.Linear, "norm": (nn.BatchNorm2d, nn.BatchNorm1d)}
        self.layers = {
            name: iter([layer for layer in unit.modules() if isinstance(layer, kind)]) for name, kind in kinds.items()
        }

    def norm(self, x):
        layer = next(self.layers["norm"])
        axes = [0, *range(2, x.dim())]
        mean, variance = layer.running_mean, layer.running_var
        if self.training:
            mean, variance = x.mean(axes), x.var(axes, unbiased=False)
        shape = (1, -1, *[1] * (x.dim() - 2))
        scaled = (x - mean.view(shape)) / (variance.view(shape) + layer.eps).sqrt()
        return scaled * layer.weight.view(shape) + layer.bias.view(shape)

    def conv(self, x, **options):
        layer = next(self.layers["conv"])
        assert layer.bias is None
        return conv2d(self.norm(x).clamp(min=0), layer.weight, **options)

    def linear(self, x):
        layer = next(self.layers["linear"])
        return x @ layer.weight.T + layer.bias

    def pooled(self, m):
        layer = next(self.layers["conv"])
        score = torch.einsum("c,bchw->bhw", layer.weight[0, :, 0, 0], m) + layer.bias
        weight = score.exp() / score.exp().sum((1, 2), keepdim=True)
        return torch.einsum("bchw,bhw->bc", m, weight)

    def gates(self, s):
        channels = s.shape[1]
        f = torch.sigmoid(self.linear(torch.tanh(self.norm(self.linear(self.pooled(s))))))
        a = self.pooled(self.conv(s, padding=1, groups=channels))
        b = self.pooled(self.conv(s, padding=2, dilation=2, groups=channels))
        t = torch.tanh(self.norm(self.linear(torch.cat([a, b], dim=1))))
        logits = self.linear(t)
        share_of_a = torch.sigmoid(logits[:, :channels] - logits[:, channels:])  # a softmax over two
        u = share_of_a * a + (1 - share_of_a) * b
        return s * f[:, :, None, None] + u[:, :, None, None]

    def all_used(self):
        return all(next(layers, None) is None for layers in self.layers.values())


def with_statistics(unit, training):
    """In double precision, with weights and running statistics that are not those of the start."""
    unit = unit.double().train(training)
    for value in unit.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.1 if value.dim() == 1 else torch.randn_like(value))
    return unit


@settings(max_examples=20, deadline=None)
@given(channels=st.integers(1, 9), growth=st.sampled_from([4, 8, 12]), training=st.booleans())
def test_smg_unit_adds_what_its_formulas_say(channels, growth, training):
    torch.manual_seed(0)
    unit = with_statistics(SMG(channels, growth), training)
    x = torch.randn(5, channels, 6, 4, dtype=torch.float64)
    plain = Formulas(unit)
    s = plain.conv(plain.conv(x), padding=1, groups=4)
    expected = torch.cat([x, plain.gates(s)], dim=1)
    assert plain.all_used()
    torch.testing.assert_close(unit(x), expected, rtol=1e-9, atol=1e-9)
    assert expected.shape == (5, channels + growth, 6, 4)


@settings(max_examples=20, deadline=None)
@given(channels=st.integers(8, 25), training=st.booleans())
def test_transition_is_what_its_formulas_say(channels, training):
    torch.manual_seed(0)
    half = channels // 2
    unit = with_statistics(Transition(channels, half), training)
    x = torch.randn(5, channels, 6, 4, dtype=torch.float64)
    plain = Formulas(unit)
    between = plain.conv(x)
    assert between.shape[1] == channels - (channels - half) // 2
    expected = plain.gates(plain.conv(between, padding=1, stride=2))
    assert plain.all_used()
    torch.testing.assert_close(unit(x), expected, rtol=1e-9, atol=1e-9)
    assert expected.shape == (5, half, 3, 2)


@pytest.mark.parametrize(("unit", "hidden"), [(SMG(20, 12), (6, 12)), (Transition(120, 60), (15, 30))])
def test_hidden_widths_of_the_gates(unit, hidden):
    assert tuple(layer.num_features for layer in unit.modules() if isinstance(layer, nn.BatchNorm1d)) == hidden


def test_hybrid_blocks_with_transitions_between():
    network = HCGNet(100, units=[8, 8, 8], growth=[12, 24, 36])
    kinds = [[type(unit) for unit in stage] for stage in network.stages]
    assert kinds == [[SMG] * 8 + [Transition], [SMG] * 8 + [Transition], [SMG] * 8]
    with torch.no_grad():
        images = torch.zeros(2, 3, 32, 32)
        stem, taps = network.stem(images), network.taps(images)
    assert stem.shape == (2, 24, 32, 32) and network.stem.bias is None
    assert [tuple(tap.shape) for tap in taps] == [(2, 60, 16, 16), (2, 126, 8, 8), (2, 414, 8, 8)]


def test_neck_is_batch_norm_and_relu():
    network = HCGNet(10, units=[1, 1], growth=[4, 8]).eval()
    features = torch.randn(2, network.width, 5, 5)
    norm = network.neck[0]
    nn.init.constant_(norm.running_mean, 0.5)
    expected = ((features - 0.5) / (1 + norm.eps) ** 0.5).clamp(min=0).mean((2, 3))
    torch.testing.assert_close(network.embed(features), expected)


def test_what_cannot_be_built():
    with pytest.raises(ValueError, match="units and growth"):
        HCGNet(10, units=[1, 1], growth=[4])
    with pytest.raises(ValueError, match="multiples of 4.* not 6"):
        HCGNet(10, units=[1, 1], growth=[4, 6])
