"""ShuffleNetV2 for 32x32 images (Ma et al., ECCV 2018)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from mcl_lab.networks.staged import StagedNetwork, with_channels_last

OFFERED = {"pair.peers.*": ["ShuffleNetV2"]}  # to configs, by place


class ShuffleNetV2(StagedNetwork):
    """Stem of one 3x3 convolution to 24 channels, then stages of one down block and `blocks` basic ones each.

    blocks: basic blocks in each stage. widths: channels of each stage, even numbers. last_width: channels after the
    1x1 convolution of the neck. Values start as PyTorch's layers do.
    Raises ValueError when `blocks` and `widths` are not of one length, and when a width is odd.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        blocks: Sequence[Annotated[int, ">= 0"]],
        widths: Sequence[Annotated[int, ">= 2"]],
        last_width: Annotated[int, ">= 1"] = 1024,
    ):
        if len(blocks) != len(widths) or not blocks:
            raise ValueError(
                f"blocks and widths need one entry each for every stage, not {len(blocks)} and {len(widths)}"
            )
        if odd := [width for width in widths if width % 2]:
            raise ValueError(f"widths must be even, as blocks work on halves of the channels, not {odd[0]}")
        stages, channels = [], 24
        for count, width in zip(blocks, widths, strict=True):
            stages.append(nn.Sequential(_Down(channels, width), *(_Basic(width) for _ in range(count))))
            channels = width
        super().__init__(
            nn.Sequential(*_conv(3, 24, 3), nn.ReLU(inplace=True)),
            stages,
            nn.Sequential(*_conv(channels, last_width, 1), nn.ReLU(inplace=True)),
            width=last_width,
            num_classes=num_classes,
        )


class _Basic(nn.Module):
    """The first half of the channels as it is, the second through a bottleneck without a shortcut, then shuffled."""

    def __init__(self, channels: int):
        super().__init__()
        self.right = _right(channels // 2, channels // 2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return _shuffled(left, self.right(right))


class _Down(nn.Module):
    """Half the size: all channels go through both sides, each of which puts out half of the new ones."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        half = out_channels // 2
        self.left = nn.Sequential(*_depthwise(channels, stride=2), *_conv(channels, half, 1), nn.ReLU(inplace=True))
        self.right = _right(channels, half, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return _shuffled(self.left(x), self.right(x))


def _shuffled(left: Tensor, right: Tensor) -> Tensor:
    """Both (B, C, H, W) concatenated and shuffled in two groups: their channels in turn, (B, 2 C, H, W)."""
    shuffled = torch.stack((with_channels_last(left), with_channels_last(right)), dim=-1).flatten(3)
    return shuffled.permute(0, 3, 1, 2)


def _right(channels: int, out_channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        *_conv(channels, out_channels, 1), nn.ReLU(inplace=True),
        *_depthwise(out_channels, stride),
        *_conv(out_channels, out_channels, 1), nn.ReLU(inplace=True),
    )  # fmt: skip


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    return _conv(channels, channels, 3, stride, groups=channels)


def _conv(channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution and its BatchNorm."""
    convolution = nn.Conv2d(channels, out_channels, size, stride, padding=size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels)]
