"""The form every network takes: a chain of stages that can be tapped.

B batch, C classes, D embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class StagedNetwork(nn.Module):
    """An image classifier as stem, stages, neck, global average pooling and a linear classifier.

    A network joins by handing its parts to this constructor; auxiliary branches are then made from them (branches.py).

    stem: images (B, 3, H, W) to the first feature map.
    stages: feature map to feature map; the output of each but the last is a tap for an auxiliary branch, so what comes
    after it must not write into it (`spare_taps`).
    neck: what stands between the last stage and the pooling (a final BatchNorm and ReLU, a 1x1 convolution, or nothing);
    one that ends in vectors (B, D) is not pooled.
    width: D, channels after the neck. num_classes: C.
    Lazy layers in them (nn.LazyConv2d) get their channels here. Raises ValueError when there is no stage.
    """

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], neck: nn.Module, *, width: int, num_classes: int):
        super().__init__()
        if not stages:
            raise ValueError("a network needs one stage or more")
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.neck = neck
        self.width = width
        self.num_classes = num_classes
        self.classifier = nn.Linear(width, num_classes)
        if any(map(is_lazy, (*self.parameters(), *self.buffers()))):
            with torch.no_grad():  # of a size that no network is too deep for
                self.eval().embed(self.taps(torch.zeros(1, 3, 224, 224))[-1])
            self.train()
        self.initialise(self)

    def initialise(self, module: nn.Module) -> None:
        """Set the family's initial values in `module`, this network or a branch of it, whose layers hold PyTorch's own."""

    def check(self) -> None:
        """Raise ValueError when the network is not what its arguments call it; asked before it is trained, no sooner."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the own head's logits (B, C)."""
        features = self.stem(images)
        for stage in self.stages:
            features = stage(features)
        return self.classifier(self.embed(features))

    def taps(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to the feature map after each stage."""
        features, taps = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            taps.append(features)
        return taps

    def spare_taps(self) -> None:
        """Have layers that a stage begins with, such as `nn.ReLU(inplace=True)`, leave the tap before it as it is."""
        for k in range(1, len(self.stages)):
            _spare_input(nn.Sequential(*self.stages[k:], self.neck))

    def embed(self, features: Tensor) -> Tensor:
        """The last stage's feature map to the embedding (B, D)."""
        return pool(self.neck(features))


def pool(features: Tensor) -> Tensor:
    """Global average pooling, (B, D, H, W) to (B, D), which stays as it is."""
    if features.dim() == 2:
        return features
    return with_channels_last(features).mean(dim=(1, 2))  # adaptive pooling has no deterministic backward on CUDA


def with_channels_last(features: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H, W, C), the order in which feature maps lie in memory.

    Where PyTorch is free to choose a result's layout, that of a mean's gradient for one, it goes by the order of the
    dimensions. A layer that is given two layouts at once takes ten times as long.
    """
    return features.permute(0, 2, 3, 1)


def _spare_input(module: nn.Module) -> bool:
    """Have the layers that are given a module's input not write into it; returns whether it may come out as it is."""
    if isinstance(module, nn.Sequential):
        return all(map(_spare_input, module))  # to the first that makes something else of it
    if getattr(module, "inplace", False) is True:
        module.inplace = False  # type: ignore[assignment]  # for all that mypy knows a tensor
    return isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d))
