"""Batches ready for a network, from image sets that lie on the device: no per-image Python, no worker processes.

Dimensions: B images a batch, H x W pixels.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mcl_lab.data.augmentation import CropFlip
from mcl_lab.data.datasets import ImageSet
from mcl_lab.data.sampling import check_class_balance, class_balanced_batches, shuffled_batches
from mcl_lab.errors import InputError

Batch = tuple[Tensor, Tensor]  # images (B, 3, H, W) float32, normalised; labels (B,) int64


class TrainingBatches:
    """Shuffled or class-balanced, augmented batches; an epoch is a function of (seed, epoch) alone.

    `mean` and `std` are per channel, of pixels in [0, 1]. `warnings` tells what is odd about the batches.
    Raises InputError `data.batch_size` or `data.images` when there are no such batches.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        class_balanced: bool,
        augmentation: CropFlip | None,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        channels_last: bool,
    ):
        self._images = images
        self._labels = images.labels.cpu()  # the samplers work on the CPU, whose random numbers are the same everywhere
        self._batch_size = batch_size
        self._class_balanced = class_balanced
        self._augmentation = augmentation
        self._normalise = _Normalisation(mean, std, images.images.device, channels_last)
        self._seed = seed
        self.warnings = check_batches(images, batch_size=batch_size, class_balanced=class_balanced)

    def __len__(self) -> int:
        """Batches an epoch."""
        whole, rest = divmod(len(self._images), self._batch_size)
        return whole if self._class_balanced or rest < 2 else whole + 1

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on, the same to the bit whatever `start` is."""
        generator = _generator(self._seed, epoch)
        if self._class_balanced:
            indices = class_balanced_batches(self._labels, self._batch_size, generator).flatten()
        else:
            indices = torch.cat(shuffled_batches(len(self._images), self._batch_size, generator))
        device = self._images.images.device
        draws = None if self._augmentation is None else self._augmentation.draw(len(indices), generator).to(device)
        indices = indices.to(device)  # once: a copy in every step would wait for the device
        for first in range(start * self._batch_size, len(indices), self._batch_size):
            places = slice(first, first + self._batch_size)
            images = self._images.images.index_select(0, indices[places])
            if self._augmentation is not None and draws is not None:
                images = self._augmentation(images, draws[places])
            yield self._normalise(images), self._images.labels.index_select(0, indices[places])


def check_batches(images: ImageSet, *, batch_size: int, class_balanced: bool) -> list[str]:
    """Warnings of what is odd about training batches of these images.

    Raises InputError `data.batch_size` or `data.images` when there are no such batches.
    """
    if class_balanced:
        return check_class_balance(images.labels.cpu(), images.classes, batch_size)
    if batch_size < 2:
        raise InputError("data.batch_size", f"must be at least 2, it is {batch_size}")
    if len(images) < 2:
        raise InputError("data.images", f"there must be at least two images to train on, not {len(images)}")
    return []


class EvaluationBatches:
    """All images in their order, normalised and nothing else; the last batch may be smaller."""

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        channels_last: bool,
    ):
        self._images = images
        self._batch_size = batch_size
        self._normalise = _Normalisation(mean, std, images.images.device, channels_last)

    def __len__(self) -> int:
        return -(-len(self._images) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        batches = zip(
            self._images.images.split(self._batch_size), self._images.labels.split(self._batch_size), strict=True
        )
        for images, labels in batches:
            yield self._normalise(images), labels


class _Normalisation:
    """(pixel / 255 - mean) / std as one multiply-add, its factors computed in float64."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device, channels_last: bool):
        mu, sigma = (torch.tensor(list(v), dtype=torch.float64).view(1, -1, 1, 1) for v in (mean, std))
        self._scale = (1 / (255 * sigma)).float().to(device)
        self._shift = (-mu / sigma).float().to(device)
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        normalised = torch.addcmul(self._shift, images.float(), self._scale)
        return normalised.contiguous(memory_format=self._memory_format)


def _generator(seed: int, epoch: int) -> torch.Generator:
    # Hashed together, so that no sum or shift of the two numbers gives the same epoch again.
    mixed = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))
