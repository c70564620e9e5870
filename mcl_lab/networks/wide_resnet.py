"""Wide residual networks for 32x32 images (Zagoruyko and Komodakis, BMVC 2016): WRN-depth-widen_factor."""

from typing import Annotated

from torch import Tensor, nn

from mcl_lab.networks.staged import StagedNetwork

OFFERED = {"pair.peers.*": ["WideResNet"]}  # to configs, by place


class WideResNet(StagedNetwork):
    """Three stages of (depth - 4) / 6 pre-activation blocks, `widen_factor` times as wide as those of a ResNet.

    Stages, and so taps, end before an activation; the neck holds the last BatchNorm and ReLU.
    Raises ValueError when the depth is not 6 n + 4.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        depth: Annotated[int, ">= 10"],
        widen_factor: Annotated[int, ">= 1"],
    ):
        count, rest = divmod(depth - 4, 6)
        if rest or not count:
            raise ValueError(f"depth must be 6 n + 4 (10, 16, 22, 28, ...), not {depth}")
        stages, channels = [], 16
        for planes, stride in ((16, 1), (32, 2), (64, 2)):
            stage = []
            for position in range(count):
                stage.append(_PreActivation(channels, planes * widen_factor, stride if position == 0 else 1))
                channels = planes * widen_factor
            stages.append(nn.Sequential(*stage))
        super().__init__(_conv(3, 16, 3), stages, _activation(channels), width=channels, num_classes=num_classes)

    def initialise(self, module: nn.Module) -> None:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)


class _PreActivation(nn.Module):
    """x + residual(activation(x)); where the width changes, the shortcut starts from activation(x) as well."""

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.activation = _activation(channels)
        self.residual = nn.Sequential(
            _conv(channels, out_channels, 3, stride), _activation(out_channels), _conv(out_channels, out_channels, 3)
        )
        self.shortcut = _conv(channels, out_channels, 1, stride) if channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation(x)
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.residual(activated).add_(shortcut)


def _activation(channels: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _conv(channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, size, stride, padding=size // 2, bias=False)
