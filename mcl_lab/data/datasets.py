"""Image sets that fit into memory, and where they come from.

Every source is a function that returns `Splits`; a config names it as `_target_` of `data.images`.
Dimensions: N images, H x W pixels.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mcl_lab.data import cifar, image_files
from mcl_lab.errors import InputError
from mcl_lab.host.files import expanded

OFFERED = {"data.images": ["digits", "cifar10", "cifar100", "imagefolder"]}  # to configs, by place


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, whole in memory.

    Raises InputError `data.images` when the tensors are not what the fields say.
    """

    images: Tensor  # (N, 3, H, W) uint8, RGB
    labels: Tensor  # (N,) int64, places in classes
    classes: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # "FILE: REASON" of each image of the source that could not be read and is not here
    remarks: tuple[str, ...] = ()  # what else a person should know of the source: "left out by extension (3 .gif)"

    def __post_init__(self):
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            found = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise InputError("data.images", f"images must be uint8 of shape (N, 3, H, W), these are {found}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise InputError("data.images", f"labels must be int64, one for each image, these are {found}")
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise InputError("data.images", f"labels must be from 0 to {len(self.classes) - 1}, the last class")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> "ImageSet":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor) -> "ImageSet":
        """The images at `indices` (n,) int64, in that order, or of a mask (N,) bool; all else stays."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


class Splits(NamedTuple):
    """The two parts of a data set, of the same classes and image size."""

    train: ImageSet
    test: ImageSet


def digits(size: Annotated[int, ">= 8"] = 32) -> Splits:
    """The 1,797 handwritten digits that scikit-learn ships, enlarged bilinearly from 8x8 to `size` x `size`.

    1,437 train and 360 test images, a stratified 80/20 split that is always the same.
    Raises InputError `data.images.size`.
    """
    # Seconds to import, which the other sources need not wait for.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    _check_whole_number("data.images.size", size, least=8)
    source = load_digits()
    grey = torch.from_numpy(source.images).unsqueeze(1) * (255 / 16)  # (N, 1, 8, 8), pixels from 0 to 16
    grey = F.interpolate(grey, size=(size, size), mode="bilinear", align_corners=False)
    images = grey.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    everything = ImageSet(images, torch.from_numpy(source.target).long(), tuple("0123456789"))
    places = np.arange(len(everything))
    train, test = train_test_split(places, test_size=0.2, stratify=source.target, random_state=0)
    return Splits(everything.subset(torch.from_numpy(train)), everything.subset(torch.from_numpy(test)))


def cifar10(root: str, checksums: Mapping[str, str] | None = None) -> Splits:
    """CIFAR-10: 50,000 train and 10,000 test images, 32x32, 10 classes; see `cifar100`."""
    return _cifar("CIFAR10", root, checksums)


def cifar100(root: str, checksums: Mapping[str, str] | None = None) -> Splits:
    """CIFAR-100: 50,000 train and 10,000 test images, 32x32, 100 classes.

    Read from the folder `root`; unpacked from the archive lying there, or downloaded into it, when missing.
    `checksums` maps the file names of archive and members to MD5 sums other than the official ones.
    Raises InputError `data.root` when the files are neither there nor to be had, or corrupt.
    """
    return _cifar("CIFAR100", root, checksums)


def imagefolder(
    root: str,
    train: str = "train",
    test: str | None = None,
    size: Annotated[int, ">= 1"] = 32,
    limit: Annotated[int, ">= 1"] | None = None,
    unreadable: Annotated[Literal["refuse", "skip"], "later"] = "refuse",
) -> Splits:
    """A folder of images, `root`/`train`/CLASS/* and `root`/`test`/CLASS/*, decoded once to `size` x `size` RGB.

    An image of another size is scaled, with antialiasing, to `size` at its shorter side, and its centre cropped.
    Transparency is dropped; 16-bit grey is taken by its whole range; of an animation the first frame counts; an EXIF
    orientation is not applied, as nowhere in torchvision. Files, classes and their order are those of torchvision's
    ImageFolder.
    `test` None: the folder test, or else val. `limit`: at most so many training images a class, the first by name.
    `unreadable`: what to do about images that cannot be read, "skip" leaves them out and names them in `left_out`.
    Raises InputError `data.root`, `data.images.train`, `data.images.test`, `data.images.size`, `data.images.limit`.
    """
    _check_whole_number("data.images.size", size, least=1)
    if limit is not None:
        _check_whole_number("data.images.limit", limit, least=1)
    folder = expanded(root, "data.root")
    if not os.path.isdir(folder):
        raise InputError("data.root", f"there is no folder {folder}")
    train_files = image_files.scan(folder / train, "data.images.train")
    if test is None:
        test = next((name for name in ("test", "val") if os.path.isdir(folder / name)), None)
    if test is None:
        raise InputError("data.images.test", f"{folder} has neither a folder test nor val; name the one to test on")
    test_files = image_files.scan(folder / test, "data.images.test")
    _check_same_classes(train_files.classes, test_files.classes)
    return Splits(_read(train_files.first(limit), size, unreadable), _read(test_files, size, unreadable))


def split_validation(train: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Holds out `share` of the images of each class, chosen by `seed`: (what is left to train on, validation).

    Each class keeps at least one training image; both parts keep the order of `train`.
    Raises InputError `data.validation` when nothing would be held out.
    """
    if not 0 < share < 1:
        raise InputError("data.validation", f"must be a share between 0 and 1 to hold images out, it is {share}")
    labels = train.labels.cpu()
    counts = labels.bincount(minlength=len(train.classes))
    held_out = torch.minimum((counts.double() * share).round().long(), (counts - 1).clamp(min=0))
    if not held_out.any():
        raise InputError("data.validation", f"a share of {share} holds out no image of any class; raise it")
    # Shuffled, then sorted by class: an image's place in its class is then a random rank.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order] = rank < held_out[labels[order]]
    chosen = chosen.to(train.labels.device)
    return train.subset(~chosen), train.subset(chosen)


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and (population) standard deviation of each channel of images (N, C, H, W) uint8, as pixels in [0, 1].

    Counted in integers, some images at a time, so exact to the last bits of a float64.
    Raises InputError `data.images` when all pixels are of one colour, `data.std` when a channel is the same everywhere and
    cannot be normalised.
    """
    statistics = [_mean_and_std(images[:, channel]) for channel in range(images.shape[1])]
    if all(std == 0 for _, std in statistics):
        colour = ", ".join(f"{255 * mean:.0f}" for mean, _ in statistics)
        remedy = "if they are transparent, save them on a background, as transparency is dropped"
        raise InputError("data.images", f"all training images are one plain colour, RGB {colour}; {remedy}")
    if any(std == 0 for _, std in statistics):
        raise InputError("data.std", "a colour channel is the same in every pixel; set data.mean and data.std")
    return [mean for mean, _ in statistics], [std for _, std in statistics]


def _mean_and_std(channel: Tensor) -> tuple[float, float]:
    histogram = sum(part.flatten().bincount(minlength=256) for part in channel.split(4096)).tolist()
    count = sum(histogram)
    total = sum(times * value for value, times in enumerate(histogram))
    squares = sum(times * value**2 for value, times in enumerate(histogram))
    # Python's integers are exact at any size: nothing cancels in the difference.
    return total / (255 * count), (squares * count - total**2) ** 0.5 / (255 * count)


def _check_whole_number(key: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise InputError(key, f"must be a whole number, at least {least}, it is {value!r}")


def _cifar(name: str, root: str, checksums: Mapping[str, str] | None) -> Splits:
    return Splits(*(ImageSet(*part) for part in cifar.load(name, expanded(root, "data.root"), checksums)))


def _check_same_classes(train: tuple[str, ...], test: tuple[str, ...]) -> None:
    missing, unknown = sorted(set(train) - set(test)), sorted(set(test) - set(train))
    differences = []
    if missing:
        differences.append(f"lacks {image_files.first_few(missing)}")
    if unknown:
        differences.append(f"has {image_files.first_few(unknown)}, which the training images lack")
    if differences:
        raise InputError("data.images.test", f"the classes differ: the test folder {' and '.join(differences)}")


def _read(files: image_files.ImageFiles, size: int, unreadable: str) -> ImageSet:
    images, reasons = image_files.read(files, size)
    labels = torch.tensor(files.labels)
    if not reasons:
        return ImageSet(images, labels, files.classes, remarks=files.remarks)
    left_out = tuple(f"{os.path.relpath(files.paths[place], files.folder)}: {why}" for place, why in reasons.items())
    problem = f"{len(left_out)} of {len(images)} images in {files.folder} cannot be read"
    named = image_files.first_few(left_out, between="; ")
    if unreadable != "skip":
        raise InputError(files.key, f"{problem} (data.images.unreadable=skip leaves them out): {named}")
    readable = torch.ones(len(images), dtype=torch.bool)
    readable[list(reasons)] = False
    counts = labels[readable].bincount(minlength=len(files.classes)).tolist()
    lost = [name for name, count in zip(files.classes, counts, strict=True) if count == 0]
    if lost:
        raise InputError(files.key, f"{problem}, among them all of {image_files.first_few(lost)}: {named}")
    return ImageSet(images[readable], labels[readable], files.classes, left_out, files.remarks)
