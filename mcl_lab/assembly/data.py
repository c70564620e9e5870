"""The images of a run, and its batches."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from omegaconf import DictConfig

from mcl_lab.assembly.target import create
from mcl_lab.data.datasets import ImageSet, Splits, channel_statistics, split_validation
from mcl_lab.data.image_files import first_few
from mcl_lab.data.loaders import EvaluationBatches, TrainingBatches
from mcl_lab.errors import InputError


class DataFacts(NamedTuple):
    """What of the data goes with the trained networks: `mean` and `std` per channel, of images in [0, 1]; `checksum` of
    the training images and labels (SHA-256, first 16 digits), `test_checksum` of those that are evaluated, the test images and
    what was held out; None in checkpoints of older code."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checksum: str
    test_checksum: str | None = None


@dataclass(frozen=True)
class Data:
    """Images on the device they are used on. `left_out`: what could not be read of either part; `warnings`: in short;
    `description`: what all of it is, in a line."""

    train: ImageSet
    evaluated: dict[str, ImageSet]  # test, and validation when some were held out
    facts: DataFacts
    warnings: list[str]
    left_out: list[str]
    description: str


def read_images(data: DictConfig) -> Splits:
    """Both parts. Raises InputError "data.images" for parts that do not go together, whatever the source promises."""
    splits = create("data.images", data.images, root=data.get("root"))
    train, test = splits
    if train.classes != test.classes:
        raise InputError(
            "data.images", "the test images have other classes than the training images, or in another order"
        )
    if train.images.shape[2:] != test.images.shape[2:]:
        sizes = " and ".join("{}x{}".format(*part.images.shape[2:]) for part in splits)
        raise InputError("data.images", f"training and test images must be of one size, these are {sizes}")
    for name, part in splits._asdict().items():
        if not len(part):
            raise InputError("data.images", f"there are no {name} images")
    return splits


def build_data(data: DictConfig, device: torch.device) -> Data:
    """Read the images, hold out those for validation, and bring them to the device."""
    splits = read_images(data)
    train, evaluated = parts_of(splits, data.validation)
    mean, std = (data.mean, data.std) if data.mean and data.std else channel_statistics(train.images)
    checksums = checksum(train), checksum(*evaluated.values())
    return Data(
        train=train.to(device),
        evaluated={name: images.to(device) for name, images in evaluated.items()},
        facts=DataFacts(train.classes, tuple(data.mean or mean), tuple(data.std or std), *checksums),
        warnings=[line for name, part in splits._asdict().items() for line in left_out_warning(name, part)],
        left_out=[f"{name} {file}" for name, part in splits._asdict().items() for file in part.left_out],
        description=_description(data.name, {"train": train, **evaluated}, splits),
    )


def parts_of(splits: Splits, validation: float) -> tuple[ImageSet, dict[str, ImageSet]]:
    """What is trained on, and all that is evaluated: the test images and, if a share was asked for, those held out."""
    train, test = splits
    if validation == 0:
        return train, {"test": test}
    train, held_out = split_validation(train, validation, seed=0)  # whatever the run's, so that seeds can be compared
    return train, {"test": test, "validation": held_out}


def left_out_warning(name: str, images: ImageSet) -> list[str]:
    """A line about the images that could not be read, when there are any; name: of that part of the data set."""
    count = len(images.left_out)
    said = f"{count} of {len(images) + count} {name} images cannot be read and are left out: "
    return [said + first_few(images.left_out, between="; ")] if count else []


def remarks(name: str, images: ImageSet) -> list[str]:
    """A line about what else is odd about the images, when there is anything; name: of that part of the data set."""
    return [f"{name}: {', '.join(images.remarks)}"] if images.remarks else []


def _description(data_set: str, parts: Mapping[str, ImageSet], splits: Splits) -> str:
    """A line about all images: how many each part has, their classes and size, and what may be a mistake."""
    train = splits.train
    height, width = train.images.shape[2:]
    counts = [f"{len(images):,} {name}" for name, images in parts.items()]
    counted = f"{', '.join(counts[:-1])} and {counts[-1]} images of {len(train.classes)} classes"
    odd = [f"no {name} image of {first_few(lost)}" for name, images in parts.items() if (lost := _lost_classes(images))]
    odd += [line for name, images in splits._asdict().items() for line in remarks(name, images)]
    return "; ".join([f"{data_set}: {counted}, {width}x{height} pixels", *odd])


def _lost_classes(images: ImageSet) -> list[str]:
    counts = images.labels.bincount(minlength=len(images.classes)).tolist()
    return [name for name, count in zip(images.classes, counts, strict=True) if count == 0]


def checksum(*sets: ImageSet) -> str:
    """Of images and labels: SHA-256, its first 16 digits."""
    content = hashlib.sha256()
    for images in sets:
        content.update(images.images.contiguous().numpy().data)
        content.update(images.labels.contiguous().numpy().data)
    return content.hexdigest()[:16]


def training_batches(
    node: DictConfig, data: Data, *, class_balanced: bool, seed: int, channels_last: bool
) -> TrainingBatches:
    """Batches of the training images. node: the config's `data`, of which batch size and augmentation are taken."""
    return TrainingBatches(
        data.train,
        batch_size=node.batch_size,
        class_balanced=class_balanced,
        augmentation=create("data.augmentation", node.augmentation) if node.augmentation else None,
        mean=data.facts.mean,
        std=data.facts.std,
        seed=seed,
        channels_last=channels_last,
    )


def evaluation_batches(
    images: ImageSet, facts: DataFacts, *, batch_size: int, channels_last: bool
) -> EvaluationBatches:
    """All of `images`, normalised as the training images are. batch_size: of the training; here it is 256 or more."""
    batch_size = max(256, batch_size)
    return EvaluationBatches(images, batch_size=batch_size, mean=facts.mean, std=facts.std, channels_last=channels_last)
