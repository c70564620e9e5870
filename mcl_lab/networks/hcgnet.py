"""HCGNet for 32x32 images: gated convolutional networks with hybrid connectivity (Yang et al., AAAI 2020).

B batch, C channels, H x W pixels.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from mcl_lab.networks.staged import StagedNetwork, with_channels_last

OFFERED = {"pair.peers.*": ["HCGNet"]}  # to configs, by place


class HCGNet(StagedNetwork):
    """Hybrid blocks of SMG units, which add channels, and between them transitions to half the channels and size.

    units: SMG units in each hybrid block. growth: channels that each of them adds, multiples of 4.
    A stage is a hybrid block with the transition after it. Values start as PyTorch's layers do.
    Raises ValueError when `units` and `growth` are not of one length, and when a growth is no multiple of 4.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        units: Sequence[Annotated[int, ">= 1"]],
        growth: Sequence[Annotated[int, ">= 4"]],
    ):
        if len(units) != len(growth) or not units:
            raise ValueError(
                f"units and growth need one entry each for every stage, not {len(units)} and {len(growth)}"
            )
        if uneven := [added for added in growth if added % 4]:
            raise ValueError(f"growth must be in multiples of 4, as its convolutions have 4 groups, not {uneven[0]}")
        channels = 2 * growth[0]
        stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        stages = []
        for index, (count, added) in enumerate(zip(units, growth, strict=True)):
            stage: list[nn.Module] = []
            for _ in range(count):
                stage.append(SMG(channels, added))
                channels += added
            if index < len(units) - 1:
                stage.append(Transition(channels, channels // 2))
                channels //= 2
            stages.append(nn.Sequential(*stage))
        neck = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        super().__init__(stem, stages, neck, width=channels, num_classes=num_classes)


class SMG(nn.Module):
    """The input and, after its channels, `growth` new ones: the input squeezed to as many, and gated.

    (B, C, H, W) to (B, C + growth, H, W).
    """

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.squeeze = nn.Sequential(_conv(channels, 4 * growth, 1), _conv(4 * growth, growth, 3, groups=4))
        self.gates = _Gates(growth, reduction=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.gates(self.squeeze(x))], dim=1)


class Transition(nn.Module):
    """Fewer channels and half the size, then the gates of an SMG unit; (B, C, H, W) to (B, out_channels, H/2, W/2)."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        between = channels - (channels - out_channels) // 2
        self.squeeze = nn.Sequential(_conv(channels, between, 1), _conv(between, out_channels, 3, stride=2))
        self.gates = _Gates(out_channels, reduction=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.gates(self.squeeze(x))


class _Gates(nn.Module):
    """s * forget(s) + update(s), where forget and update have one value a channel.

    The update is the same at every position, as in the authors' code.
    """

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        self.forget = nn.Sequential(
            _AttentionPooling(channels), *_bottleneck(channels, channels // reduction, channels), nn.Sigmoid()
        )
        self.update = _Update(channels, 2 * channels // reduction)

    def forward(self, s: Tensor) -> Tensor:
        forget = self.forget(s)
        update = self.update(s).to(s.dtype)  # CUDA's autocast has it in float32, after a softmax
        return s * forget[:, :, None, None] + update[:, :, None, None]


class _Update(nn.Module):
    """Two scales of view, and how much each channel takes of either; (B, C, H, W) to (B, C)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.near = nn.Sequential(_conv(channels, channels, 3, groups=channels), _AttentionPooling(channels))
        self.far = nn.Sequential(_conv(channels, channels, 3, groups=channels, dilation=2), _AttentionPooling(channels))
        self.choice = nn.Sequential(*_bottleneck(2 * channels, hidden, 2 * channels))

    def forward(self, s: Tensor) -> Tensor:
        views_B2C = torch.stack([self.near(s), self.far(s)], dim=1)
        logits_B2C = self.choice(views_B2C.flatten(1)).view_as(views_B2C)
        return (logits_B2C.softmax(dim=1) * views_B2C).sum(dim=1)


class _AttentionPooling(nn.Module):
    """The mean over the positions, each weighted by what a 1x1 convolution finds in it; (B, C, H, W) to (B, C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.attention = nn.Conv2d(channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        logits = self.attention(features)
        weights = logits.flatten(1).softmax(dim=1).view_as(logits)
        return (with_channels_last(features) * with_channels_last(weights)).sum(dim=(1, 2))


def _bottleneck(channels: int, hidden: int, out_channels: int) -> list[nn.Module]:
    """On vectors (B, C), where a 1x1 convolution is a linear layer."""
    return [nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Linear(hidden, out_channels)]


def _conv(
    channels: int, out_channels: int, size: int, *, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Module:
    """BatchNorm, ReLU, convolution."""
    padding = size // 2 * dilation
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, out_channels, size, stride, padding, dilation, groups, bias=False),
    )
