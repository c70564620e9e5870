"""Image files in a folder for each class: found by torchvision, decoded by Pillow."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mcl_lab.errors import InputError


class ImageFiles(NamedTuple):
    """The image files under a folder that has a subfolder for each class, in the order of class and path."""

    folder: Path
    key: str  # the setting that named the folder
    paths: list[str]
    labels: list[int]  # places in classes
    classes: tuple[str, ...]

    def first(self, limit: int | None) -> "ImageFiles":
        """At most `limit` files of each class, the first by path; None: all."""
        if limit is None:
            return self
        taken, kept = Counter(), []
        for place, label in enumerate(self.labels):
            if taken[label] < limit:
                taken[label] += 1
                kept.append(place)
        paths, labels = [self.paths[place] for place in kept], [self.labels[place] for place in kept]
        return self._replace(paths=paths, labels=labels)


def scan(folder: Path, key: str) -> ImageFiles:
    """The images of `folder`/CLASS/*, at any depth.

    Raises InputError `key` when the folder is missing, has fewer than two classes, or a class has no image.
    """
    # A second or more to import, which the other sources need not wait for.
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise InputError(key, f"there is no folder {folder}")
    try:
        found = ImageFolder(folder, allow_empty=True)
    except FileNotFoundError:
        raise InputError(key, f"{folder} is empty: images belong in {folder / 'CLASS'}, a folder each class") from None
    if not found.targets:
        raise InputError(key, f"no folder of {folder} holds an image ({', '.join(found.extensions)})")
    images = np.bincount(found.targets, minlength=len(found.classes))
    empty = [name for name, count in zip(found.classes, images, strict=True) if count == 0]
    if empty:
        raise InputError(key, f"no image in {folder} of {first_few(empty)}; remove the folder or fill it")
    if len(found.classes) == 1:
        raise InputError(key, f"{folder} has one class only, {found.classes[0]}; at least two are needed")
    paths = [path for path, _ in found.samples]
    return ImageFiles(folder, key, paths, list(found.targets), tuple(found.classes))


def read(files: ImageFiles, size: int) -> Tensor:
    """The images (N, 3, size, size) uint8 RGB, decoded in threads.

    Raises InputError `files.key` when some cannot be read.
    """
    images = torch.empty(len(files.paths), 3, size, size, dtype=torch.uint8)
    pixels = images.numpy()  # the same memory, faster to write to
    resize = _resize_and_crop(size)

    def decode(places: range) -> list[int]:
        """The places of files that cannot be read."""
        broken = []
        for place in places:
            try:
                with Image.open(files.paths[place]) as image:
                    pixels[place] = np.asarray(resize(_to_rgb(image))).transpose(2, 0, 1)
            except Exception:  # Pillow's decoders raise nearly anything on a broken file
                broken.append(place)
        return broken

    # Many images a task: handing each one to a thread takes longer than decoding it when it is small.
    tasks = [range(len(images))[first : first + 128] for first in range(0, len(images), 128)]
    with ThreadPoolExecutor(min(8, torch.get_num_threads())) as threads:  # with more they only wait for each other
        broken = [place for places in threads.map(decode, tasks) for place in places]
    if broken:
        names = first_few([os.path.relpath(files.paths[place], files.folder) for place in broken])
        raise InputError(files.key, f"{len(broken)} of {len(images)} images in {files.folder} cannot be read: {names}")
    return images


def first_few(names: Sequence[str], most: int = 5) -> str:
    """The names for an error message: 'a, b, c, d, e and 7 more'."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would cut off at 255
        grey = np.asarray(image).clip(0, 65535) / 257
        image = Image.fromarray(grey.round().astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns of the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")


def _resize_and_crop(size: int):
    from torchvision.transforms import CenterCrop, Compose, Resize

    return Compose([Resize(size), CenterCrop(size)])  # Pillow's bilinear filter, which always antialiases
