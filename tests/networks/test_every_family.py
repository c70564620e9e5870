"""What training asks of every network, of each family one so small that second derivatives cost nothing.

B batch, C classes.
"""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from mcl_lab.networks.cohort import Cohort
from mcl_lab.networks.hcgnet import HCGNet
from mcl_lab.networks.resnet import ResNet
from mcl_lab.networks.shufflenet_v2 import ShuffleNetV2
from mcl_lab.networks.torchvision_backbone import TorchvisionBackbone
from mcl_lab.networks.wide_resnet import WideResNet

B, C = 6, 5
NETWORKS = {
    "resnet": lambda: ResNet(C, block="basic", blocks=[1, 1, 1], widths=[4, 6, 8]),
    "bottleneck": lambda: ResNet(C, block="bottleneck", blocks=[1, 1, 1], widths=[2, 3, 4]),
    "wide_resnet": lambda: WideResNet(C, depth=10, widen_factor=1),
    "shufflenet_v2": lambda: ShuffleNetV2(C, blocks=[1, 1, 1], widths=[4, 8, 6], last_width=10),
    "hcgnet": lambda: HCGNet(C, units=[1, 2, 1], growth=[4, 8, 4]),
    "torchvision": lambda: TorchvisionBackbone(
        C, model="squeezenet1_1", stem=["features.0", "features.1"], stages=[["features.3"], ["features.4"]]
    ),
}


@pytest.fixture(params=NETWORKS)
def cohort(request):
    torch.manual_seed(0)
    return Cohort({"a": NETWORKS[request.param]()}, branches=True)


@pytest.fixture
def images():
    return torch.randn(B, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Scalar:
    """A smooth scalar of all that a cohort puts out, as a function of its parameters."""

    def __init__(self, cohort, images):
        self.cohort = cohort.double().to(memory_format=torch.channels_last)
        self.images = images.double().contiguous(memory_format=torch.channels_last)
        self.buffers = {name: value.clone() for name, value in cohort.named_buffers()}
        self.at = {name: value.detach() for name, value in cohort.named_parameters()}
        self.direction = {name: torch.randn_like(value) for name, value in self.at.items()}

    def __call__(self, parameters):
        output = functional_call(self.cohort, {**parameters, **self.buffers}, (self.images,))
        return sum(values.sin().sum() for kind in output for values in kind[0])

    def gradient(self, step=0.0, **options):
        """At `step` times the direction, with what it was taken by."""
        at = {name: (value + step * self.direction[name]).requires_grad_() for name, value in self.at.items()}
        return at, torch.autograd.grad(self(at), list(at.values()), materialize_grads=True, **options)

    def along(self, vectors):
        """Inner product with the direction."""
        return sum((vector * part).sum() for vector, part in zip(vectors, self.direction.values(), strict=True))


def test_forward_mode_gives_what_reverse_mode_gives(cohort, images):
    scalar = Scalar(cohort, images)
    _, gradient = scalar.gradient()
    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(value, scalar.direction[name]) for name, value in scalar.at.items()}
        tangent = forward_ad.unpack_dual(scalar(dual)).tangent
    torch.testing.assert_close(tangent, scalar.along(gradient), rtol=1e-9, atol=1e-9)


def test_double_backward_gives_how_the_gradient_changes(cohort, images):
    """Steps so short that no ReLU is at its kink."""
    scalar, step = Scalar(cohort, images), 1e-9
    at, gradient = scalar.gradient(create_graph=True)
    product = torch.autograd.grad(scalar.along(gradient), list(at.values()), materialize_grads=True)
    (_, after), (_, before) = scalar.gradient(step), scalar.gradient(-step)
    expected = torch.cat([((a - b) / (2 * step)).flatten() for a, b in zip(after, before, strict=True)])
    product = torch.cat([part.flatten() for part in product])
    assert (product - expected).norm() < 1e-5 * expected.norm()


def test_memory_format_changes_nothing(cohort, images):
    expected = cohort(images)
    output = cohort.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    for ours, theirs in zip(output, expected, strict=True):
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-4)


class MixedLayouts(TorchDispatchMode):
    """Names of the operations that are given feature maps of which different dimensions are innermost in memory."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        maps = [x for x in args if isinstance(x, torch.Tensor) and x.dim() == 4 and min(x.shape) > 1]
        if len({min((stride, dim) for dim, stride in enumerate(x.stride()) if stride)[1] for x in maps}) > 1:
            self.found.append(str(operation))
        return operation(*args, **kwargs or {})


def test_layouts_are_not_mixed_forward_or_backward(cohort, images):
    """Elementwise operations on two layouts take ten times as long."""
    with MixedLayouts() as mixed:
        output = cohort.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
        sum(values.sin().sum() for kind in output for values in kind[0]).backward()
    assert mixed.found == []


def test_bfloat16_forward_and_backward(cohort, images):
    expected = cohort(images)
    cohort.autocast = torch.bfloat16
    output = cohort(images)
    for ours, theirs in zip(output, expected, strict=True):
        for value, exact in zip(ours[0], theirs[0], strict=True):
            assert value.dtype == torch.float32
            assert (value - exact).norm() < 0.1 * exact.norm()
    sum(values.sin().sum() for kind in output for values in kind[0]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in cohort.parameters())


def test_feature_maps_of_autocast_are_in_bfloat16(cohort, images):
    """From end to end: one operation that puts out float32 would make so all that comes after it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.autocast(device, torch.bfloat16):
        taps = cohort.peers["a"].network.to(device).taps(images.to(device))
    assert {tap.dtype for tap in taps} == {torch.bfloat16}


def test_taps_are_left_as_they_are(cohort, images):
    """What comes after a tap does not write into it: its branch reads it later."""
    network = cohort.peers["a"].network.eval()
    features = network.stem(images)
    for stage in [*network.stages, network.neck]:
        before = features.clone()
        after = stage(features)
        assert features.equal(before)
        features = after
