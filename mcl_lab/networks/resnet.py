"""ResNet for 32x32 images (He et al., CVPR 2016, section 4.2), with basic or bottleneck blocks."""

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor, nn

from mcl_lab.networks.branches import Branch
from mcl_lab.networks.staged import StagedNetwork

OFFERED = {"pair.peers.*": ["ResNet"]}  # to configs, by place


class ResNet(StagedNetwork):
    """Stem of one 3x3 convolution, then one stage for each entry of `blocks`; all stages but the first halve the size.

    blocks: residual blocks in each stage. widths: planes of each stage; a bottleneck block puts out four times as many.
    Raises ValueError when the two are not of one length.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        block: Literal["basic", "bottleneck"],
        blocks: Sequence[Annotated[int, ">= 1"]],
        widths: Sequence[Annotated[int, ">= 1"]],
    ):
        if len(blocks) != len(widths) or not blocks:
            raise ValueError(
                f"blocks and widths need one entry each for every stage, not {len(blocks)} and {len(widths)}"
            )
        make_block, expansion = {"basic": (_basic, 1), "bottleneck": (_bottleneck, 4)}[block]
        stem = nn.Sequential(_conv(3, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        stages, channels = [], widths[0]
        for index, (count, planes) in enumerate(zip(blocks, widths, strict=True)):
            stage = []
            for position in range(count):
                stride = 2 if index > 0 and position == 0 else 1
                stage.append(_Residual(make_block(channels, planes, stride), channels, planes * expansion, stride))
                channels = planes * expansion
            stages.append(nn.Sequential(*stage))
        super().__init__(stem, stages, nn.Identity(), width=channels, num_classes=num_classes)

    def initialise(self, module: nn.Module) -> None:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, Branch):  # as in the authors' code
            nn.init.zeros_(module.classifier.bias)


class _Residual(nn.Module):
    """relu(residual(x) + shortcut(x))."""

    def __init__(self, residual: nn.Module, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.residual = residual
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(*_projection(channels, out_channels, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        # In place: less memory traffic.
        return nn.functional.relu(self.residual(x).add_(self.shortcut(x)), inplace=True)


def _basic(channels: int, planes: int, stride: int) -> nn.Module:
    return nn.Sequential(
        _conv(channels, planes, 3, stride), nn.BatchNorm2d(planes), nn.ReLU(inplace=True),
        _conv(planes, planes, 3), nn.BatchNorm2d(planes),
    )  # fmt: skip


def _bottleneck(channels: int, planes: int, stride: int) -> nn.Module:
    return nn.Sequential(
        _conv(channels, planes, 1), nn.BatchNorm2d(planes), nn.ReLU(inplace=True),
        _conv(planes, planes, 3, stride), nn.BatchNorm2d(planes), nn.ReLU(inplace=True),
        _conv(planes, 4 * planes, 1), nn.BatchNorm2d(4 * planes),
    )  # fmt: skip


def _projection(channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    if stride == 1 or channels >= 16:
        return [_conv(channels, out_channels, 1, stride)]
    # The same in two steps: with few channels the CPU's backward of a strided 1x1 convolution writes outside its memory
    # (https://github.com/uxlfoundation/oneDNN/issues/6035).
    return [nn.AvgPool2d(1, stride), _conv(channels, out_channels, 1)]


def _conv(channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, size, stride, padding=size // 2, bias=False)
