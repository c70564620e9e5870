"""For each operation that image classifiers are made of, whether PyTorch's second derivatives are right, and what a meta event
does: docs/second_derivatives.md. Made again, from the project's folder:

    PYTHONPATH=. python tests/meta/second_derivatives.py > docs/second_derivatives.md
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torchvision.ops import DeformConv2d, DropBlock2d, StochasticDepth

from mcl_lab.meta import hypergradient, second_derivatives
from mcl_lab.meta.check import RIGHT, UNKNOWN
from mcl_lab.meta.check import second_derivatives as verdict

ROOT = Path(__file__).parents[2]
WAYS = (second_derivatives.forward_over_reverse, second_derivatives.double_backward)
MAPS, ROWS, TOKENS = (2, 4, 4, 4), (5, 4), (2, 5, 4)
WORDS = {RIGHT: "right", UNKNOWN: "as declared"}


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Offsets(nn.Module):
    def __init__(self):
        super().__init__()
        self.offsets, self.layer = nn.Conv2d(4, 18, 3, padding=1), DeformConv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.layer(x, self.offsets(x))


class SelfAttention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.layer, self.options = nn.MultiheadAttention(4, 2, batch_first=True), options

    def forward(self, x):
        return self.layer(x, x, x, **self.options)[0]


def attention(x):
    return F.scaled_dot_product_attention(x, x.sin(), x.cos())


def written_into(x):
    y = torch.zeros_like(x)
    y[:, :2] = x[:, :2].sin()
    return y


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(4, 3), ROWS),
    "Conv2d": (lambda: nn.Conv2d(4, 3, 3), MAPS),
    "Conv2d, grouped, dilated": (lambda: nn.Conv2d(4, 4, 2, groups=2, dilation=2), MAPS),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 3, 2), MAPS),
    "DeformConv2d": (Offsets, MAPS),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), MAPS),
    "BatchNorm2d in evaluation": (lambda: nn.BatchNorm2d(4).eval(), MAPS),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), MAPS),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), MAPS),
    "LayerNorm": (lambda: nn.LayerNorm(4), MAPS),
    "RMSNorm": (lambda: nn.RMSNorm(4), MAPS),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(2), MAPS),
    "weight_norm": (lambda: weight_norm(nn.Conv2d(4, 3, 3)), MAPS),
    "weight_norm, dim=None": (lambda: weight_norm(nn.Linear(4, 3), dim=None), ROWS),
    "spectral_norm": (lambda: spectral_norm(nn.Linear(4, 3)), ROWS),
    "orthogonal": (lambda: orthogonal(nn.Linear(4, 4)), ROWS),
    "orthogonal, cayley": (lambda: orthogonal(nn.Linear(4, 4), orthogonal_map="cayley"), ROWS),
    "MultiheadAttention": (SelfAttention, TOKENS),
    "MultiheadAttention, need_weights=False": (lambda: SelfAttention(need_weights=False), TOKENS),
    "scaled_dot_product_attention": (lambda: Of(attention), (2, 2, 5, 4)),
    **{
        name: (getattr(nn, name), ROWS)
        for name in (
            "ReLU LeakyReLU PReLU ReLU6 ELU SELU CELU GELU SiLU Mish Hardswish Hardsigmoid Hardtanh Tanh Sigmoid "
            "Softplus Softsign LogSigmoid GLU"
        ).split()
    },
    "Softmax": (lambda: nn.Softmax(1), ROWS),
    "LogSoftmax": (lambda: nn.LogSoftmax(1), ROWS),
    "Dropout": (lambda: nn.Dropout(0.3), ROWS),
    "DropBlock2d": (lambda: DropBlock2d(0.3, 3), MAPS),
    "StochasticDepth": (lambda: StochasticDepth(0.5, "row"), MAPS),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), MAPS),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), MAPS),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(2), MAPS),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(2), MAPS),
    "FractionalMaxPool2d": (lambda: nn.FractionalMaxPool2d(2, output_ratio=0.5), MAPS),
    "mean": (lambda: Of(lambda x: x.mean((2, 3))), MAPS),
    "interpolate, nearest": (lambda: Of(lambda x: F.interpolate(x, scale_factor=2)), MAPS),
    "interpolate, bilinear": (lambda: Of(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")), MAPS),
    "grid_sample": (lambda: Of(lambda x: F.grid_sample(x, x[..., :2].tanh(), align_corners=False)), MAPS),
    "pad, constant": (lambda: Of(lambda x: F.pad(x, (1, 1, 0, 1))), MAPS),
    "pad, reflect": (lambda: Of(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")), MAPS),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), MAPS),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), MAPS),
    "cat": (lambda: Of(lambda x: torch.cat([x, x.sin()], 1)), MAPS),
    "split, chunk": (lambda: Of(lambda x: torch.mul(*x.chunk(2, 1)) + x.split(2, 1)[0]), MAPS),
    "roll": (lambda: Of(lambda x: x.roll((1, 1), (2, 3)) * x), MAPS),
    "unfold": (lambda: Of(lambda x: F.unfold(x, 2)), MAPS),
    "expand": (lambda: Of(lambda x: x[:, :1].expand(-1, 3, -1, -1) * x[:, :3]), MAPS),
    "permute, transpose": (lambda: Of(lambda x: x.permute(0, 2, 3, 1).transpose(1, 2).contiguous()), MAPS),
    "squeeze, unsqueeze": (lambda: Of(lambda x: x[:1].squeeze(0).unsqueeze(1)), MAPS),
    "slices": (lambda: Of(lambda x: x[:, :2, 1:] * x[:, 2:, :-1] + x[:, :4, :4, :].square()[:, :2, 1:]), MAPS),
    "indexing": (lambda: Of(lambda x: x[torch.tensor([0, 1, 1])] * x[:1, ..., :1]), MAPS),
    "writing into a slice": (lambda: Of(written_into), MAPS),
    "in place": (lambda: Of(lambda x: x.sin().mul_(x).add_(x)), MAPS),
    "matrix products": (lambda: Of(lambda x: torch.einsum("bij,bkj->bik", x @ x.mT @ x, x)), TOKENS),
    "arithmetic": (lambda: Of(lambda x: (x.exp() + x.square()).log() / (1 + x.abs()).sqrt() + x.erf()), ROWS),
    "clamp": (lambda: Of(lambda x: x.clamp(max=0.5) * x.clamp(min=-0.5)), ROWS),
    "where": (lambda: Of(lambda x: torch.where(x > 0, x.sin(), x**3)), ROWS),
    "norm": (lambda: Of(lambda x: x * x.norm(dim=1, keepdim=True)), ROWS),
    "normalize": (lambda: Of(F.normalize), ROWS),
    "cosine_similarity": (lambda: Of(lambda x: F.cosine_similarity(x, x.sin())), ROWS),
    "cdist": (lambda: Of(lambda x: torch.cdist(x, x.sin())), ROWS),
    "var, std": (lambda: Of(lambda x: x.var(1) + x.std(1)), ROWS),
    "max, topk, sort": (lambda: Of(lambda x: x.max(1)[0] * x.topk(2)[0][:, 1] * x.sort(1)[0][:, 0]), ROWS),
    "prod, cumsum": (lambda: Of(lambda x: x.prod(1) + x.cumsum(1)[:, 2]), ROWS),
    "fft": (lambda: Of(lambda x: torch.fft.rfft2(x).abs()), MAPS),
    "det": (lambda: Of(torch.linalg.det), (4, 4)),
    "solve": (lambda: Of(lambda x: torch.linalg.solve(x, x.sin())), (4, 4)),
    "cross_entropy": (lambda: Of(lambda x: F.cross_entropy(x, torch.arange(4))), (4, 4)),
    "kl_div": (lambda: Of(lambda x: F.kl_div(x.log_softmax(1), x.sin().softmax(1))), ROWS),
    "multi_margin_loss": (lambda: Of(lambda x: F.multi_margin_loss(x, torch.arange(4))), (4, 4)),
    "rounding, straight through": (lambda: Of(lambda x: x + (x.round() - x).detach()), ROWS),
}  # fmt: skip
TOP = """\
<!-- Made by `PYTHONPATH=. python tests/meta/second_derivatives.py > docs/second_derivatives.md`. -->

# Second derivatives

A meta event ([the method](method.md#the-meta-event)) needs products of second derivatives with a vector. PyTorch has two ways:
forward mode over its backward, which is the faster, and a second backward. Each is held against differences of the gradient in
float64, on a CPU. *None*: it raises an error. *Wrong*: it raises none. *As declared*: something is held fixed, so differences
tell nothing. The last column is what a meta event uses, with the operations that it replaces
([second_derivatives.py](../mcl_lab/meta/second_derivatives.py)).

All operations of torchvision's classifiers are among these. What is not of mcl_lab is tried before training, in the same way: a
run uses what is right, else it is refused in a line that names the module.

| operation | PyTorch's forward mode | PyTorch's double backward | in a meta event |
|---|---|---|---|
"""


def make(name: str) -> tuple[nn.Module, Tensor]:
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    return build().double(), torch.randn(shape, dtype=torch.float64)


def of_pytorch(name: str) -> list[str]:
    """A word for each way, nothing replaced."""
    before = second_derivatives.FORMS, second_derivatives.CLOSED_FORMS, hypergradient.sdpa_kernel
    everything = [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]
    second_derivatives.FORMS, second_derivatives.CLOSED_FORMS = {}, {}
    hypergradient.sdpa_kernel = lambda _: sdpa_kernel(everything)
    try:
        return words(name)
    finally:
        second_derivatives.FORMS, second_derivatives.CLOSED_FORMS, hypergradient.sdpa_kernel = before


def words(name: str) -> list[str]:
    module, x = make(name)
    verdicts = [verdict(module, ((x,), {}), way) for way in WAYS]
    return [WORDS.get(found, "**wrong**" if "wrong" in found else "none") for found in verdicts]


def used(forward: str, double: str) -> str:
    """What the trial of a network comes to."""
    if forward in WORDS.values():
        return f"forward mode{'' if forward == 'right' else ', as declared'}"
    return f"double backward{'' if double == 'right' else ', as declared'}" if double in WORDS.values() else "refused"


def table() -> str:
    lines = []
    with warnings.catch_warnings(action="ignore"):
        for name in LAYERS:
            plain, ours = of_pytorch(name), words(name)
            replaced = ", written out" if plain != ours else ""
            lines.append(f"| {name} | {' | '.join(plain)} | {used(*ours)}{replaced} |\n")
    return TOP + "".join(lines)


if __name__ == "__main__":
    print(table(), end="")
