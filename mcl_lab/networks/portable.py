"""A trained network by itself: without branches, and with the normalisation of its images inside.

B batch, C classes, D embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mcl_lab.networks.staged import StagedNetwork


class PortableNetwork(nn.Module):
    """Images (B, 3, H, W), RGB in [0, 1], to logits (B, C).

    network: takes normalised images. classes: the names of the C classes, in the order of the logits.
    mean, std: per channel, of images in [0, 1].
    Raises ValueError when there are as many classes as the network does not have.
    """

    def __init__(self, network: StagedNetwork, *, classes: Sequence[str], mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        if len(classes) != network.num_classes:
            raise ValueError(f"there are {len(classes)} names of classes for {network.num_classes} logits")
        self.network = network
        self.classes = tuple(classes)
        self.mean: Tensor  # (3, 1, 1)
        self.std: Tensor
        # Not part of the state, which is that of the network.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB in [0, 1], to logits (B, C). Raises ValueError for images of integers."""
        return self.network.classifier(self.embeddings(images))

    def embeddings(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB in [0, 1], to what the classifier sees of them, (B, D)."""
        if not images.is_floating_point():
            raise ValueError(f"images must be floats in [0, 1], not {images.dtype}; divide bytes by 255")
        return self.network.embed(self.network.taps((images - self.mean) / self.std)[-1])
