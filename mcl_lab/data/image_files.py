"""Image files in a folder for each class, in the order of torchvision's ImageFolder, decoded by Pillow."""

import errno
import logging
import math
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mcl_lab.errors import InputError

LARGE = 2**24  # pixels: images above are decoded one after the other, as every thread would keep the memory of one
# Of these errors the file is the cause, of all others the machine; Pillow's own OSErrors have no number.
_OF_THE_FILE = {
    None, errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL,
    errno.EOVERFLOW,
}  # fmt: skip
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints its warnings on stderr


class ImageFiles(NamedTuple):
    """The image files under a folder that has a subfolder for each class, in the order of class and path."""

    folder: Path
    key: str  # the setting that named the folder
    paths: list[str]
    labels: list[int]  # places in classes
    classes: tuple[str, ...]
    remarks: tuple[str, ...] = ()  # what else is in the folder, or is odd about it, for a person

    def first(self, limit: int | None) -> "ImageFiles":
        """At most `limit` files of each class, the first by path; None: all."""
        if limit is None:
            return self
        taken: Counter[int] = Counter()
        kept = []
        for place, label in enumerate(self.labels):
            if taken[label] < limit:
                taken[label] += 1
                kept.append(place)
        paths, labels = [self.paths[place] for place in kept], [self.labels[place] for place in kept]
        return self._replace(paths=paths, labels=labels)


def scan(folder: Path, key: str) -> ImageFiles:
    """The images of `folder`/CLASS/*, at any depth.

    Each real folder counts once in a class, and a link to a folder above adds nothing. A file counts by its name alone;
    what is in it shows when it is read. Raises InputError `key` when the folder is missing, has fewer than two classes, a
    class has no image, or a folder cannot be read.
    """
    if not os.path.isdir(folder):
        raise InputError(key, f"there is no folder {folder}")
    classes = _class_names(folder, key)
    if not classes:
        raise InputError(key, f"{folder} is empty: images belong in {folder / 'CLASS'}, a folder each class")
    others: Counter[str] = Counter()
    found = [_image_paths(folder, name, key, others) for name in classes]
    if not any(found):
        raise InputError(key, f"no folder of {folder} holds an image ({', '.join(_extensions())})")
    empty = [name for name, paths in zip(classes, found, strict=True) if not paths]
    if empty:
        remedy = f"remove the folder or fill it with images ({', '.join(_extensions())})"
        raise InputError(key, f"no image in {folder} of {first_few(empty)}; {remedy}")
    if len(classes) == 1:
        raise InputError(key, f"{folder} has one class only, {classes[0]}; at least two are needed")
    labels = [label for label, paths in enumerate(found) for _ in paths]
    paths = [path for paths in found for path in paths]
    return ImageFiles(folder, key, paths, labels, tuple(classes), tuple(_remarks(folder, key, classes, paths, others)))


def read(files: ImageFiles, size: int) -> tuple[Tensor, dict[int, str]]:
    """The images (N, 3, size, size) uint8 RGB, decoded in threads; and the places of those that cannot be read, whose
    pixels mean nothing, each with the reason.

    Raises InputError `files.key` for what is the machine's fault and no image's, or may be: want of memory.
    """
    images = torch.empty(len(files.paths), 3, size, size, dtype=torch.uint8)
    pixels = images.numpy()  # the same memory, faster to write to
    resize = _resize_and_crop(size)
    large: list[int] = []  # places

    def decode(places: Sequence[int], most: float = LARGE) -> dict[int, str]:
        """Of images with at most so many pixels; the others are added to `large`."""
        unreadable = {}
        for place in places:
            try:
                _refuse_no_file(files.paths[place])
                with Image.open(files.paths[place]) as image:
                    if image.width * image.height > most:
                        large.append(place)
                    else:
                        pixels[place] = np.asarray(resize(_to_rgb(image))).transpose(2, 0, 1)
            except MemoryError as error:  # a broken file may ask for any amount, and which it is cannot be told
                why = "there is not enough memory for it, or it is broken"
                raise InputError(files.key, f"{files.paths[place]} cannot be read: {why}") from error
            except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
                if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
                    raise InputError(files.key, f"{files.paths[place]} cannot be read: {error.strerror}") from error
                unreadable[place] = _reason(error)
        return unreadable

    # Many images a task: handing each one to a thread takes longer than decoding it when it is small.
    tasks = [range(len(images))[first : first + 128] for first in range(0, len(images), 128)]
    threads = ThreadPoolExecutor(min(8, torch.get_num_threads()))  # with more they only wait for each other
    with _quiet(), threads:
        unreadable = {place: why for part in threads.map(decode, tasks) for place, why in part.items()}
        unreadable |= decode(large, math.inf)
    return images, dict(sorted(unreadable.items()))


def first_few(names: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """The names for an error message: 'a, b, c, d, e and 7 more'."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


# Not torchvision's own scan: it follows a link to a folder above over and over, each time with all images again under
# other names, and passes over folders that it may not read.


def _class_names(folder: Path, key: str) -> list[str]:
    entries = _entries(folder, key)
    for entry in entries:
        if entry.is_symlink() and not os.path.exists(entry.path) and not entry.name.startswith("."):
            raise InputError(key, f"{entry.path} is a link that leads nowhere; a class may be missing")
    return [entry.name for entry in entries if _is_folder(entry, key)]


def _image_paths(folder: Path, name: str, key: str, others: Counter[str]) -> list[str]:
    """The image files under the folder of a class, in the order of ImageFolder: by folder, then by name. `others` counts the
    files that are not hidden and no images, by extension."""
    top = os.path.join(folder, name)
    real_folder, real_top = Path(os.path.realpath(folder)), Path(os.path.realpath(top))  # a class may be a link
    seen = set(map(str, [real_folder, *real_folder.parents, *real_top.parents]))
    found, waiting = [], [top]
    while waiting:
        current = waiting.pop()
        if (real := os.path.realpath(current)) in seen:
            continue
        seen.add(real)
        entries = _entries(current, key)
        folders = [entry for entry in entries if _is_folder(entry, key)]
        waiting += [entry.path for entry in reversed(folders)]
        files = {entry.name for entry in entries} - {entry.name for entry in folders}
        images = set(filter(_has_image_name, files))
        found.append((current, sorted(images)))
        rest = (os.path.splitext(name)[1].lower() for name in files - images if not name.startswith("."))
        others.update(extension or "without extension" for extension in rest)
    return [os.path.join(current, name) for current, names in sorted(found) for name in names]


def _remarks(
    folder: Path, key: str, classes: Sequence[str], paths: Sequence[str], others: Counter[str]
) -> Iterator[str]:
    """What of a folder may be a mistake, and is taken as ImageFolder takes it."""
    images_in = Counter(map(os.path.dirname, paths))
    inner = {os.path.relpath(place, folder): count for place, count in images_in.items()}
    hidden = [name for name in classes if name.startswith(".")]
    outside = sum(_has_image_name(entry.name) and not _is_folder(entry, key) for entry in _entries(folder, key))
    if others:
        ordered = sorted(others.items(), key=lambda item: (-item[1], item[0]))
        yield f"left out by extension ({first_few([f'{count} {name}' for name, count in ordered])})"
    if outside:
        yield f"left out outside of any class ({outside})"
    if deeper := [f"{count} in {name}" for name, count in inner.items() if name not in classes]:
        yield f"taken from folders in folders ({first_few(deeper)})"
    if hidden:
        yield f"taken as classes, though hidden ({first_few(hidden)})"


def _entries(folder: str | Path, key: str) -> list[os.DirEntry]:
    """What is in a folder, by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(key, f"the folder {folder} cannot be read: {error.strerror}") from error


def _is_folder(entry: os.DirEntry, key: str) -> bool:
    """Also through a link; one that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP or _has_image_name(entry.name):
            return False
        raise InputError(key, f"{entry.path} cannot be read: {error.strerror}") from error


def _has_image_name(name: str) -> bool:
    return name.lower().endswith(_extensions())


def _extensions() -> tuple[str, ...]:
    # A second or more to import, which the other sources need not wait for.
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return IMG_EXTENSIONS


def _refuse_no_file(path: str) -> None:
    """Opening a named pipe would wait for a writer for ever."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("is no regular file")
    if not found.st_size:
        raise ValueError("is empty")


def _reason(error: Exception) -> str:
    """Why an image cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "is no image of a known format"
    words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(words.split())[:150]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of Pillow, and of libtiff, which writes them to file descriptor 2 itself, whatever a file is
    called: what is wrong with an image is said by name. For all threads, so around all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ExitStack() as after:
            with suppress(OSError):  # closed already, or no file descriptor is left
                kept = os.dup(2)
                after.callback(os.close, kept)
                nowhere = os.open(os.devnull, os.O_WRONLY)
                after.callback(os.close, nowhere)
                after.callback(os.dup2, kept, 2)
                os.dup2(nowhere, 2)
            yield


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would cut off at 255
        grey = np.asarray(image).astype(np.int32)  # Pillow's own extrema are not there for big-endian files
        least, most = int(grey.min()), int(grey.max())
        if least < 0 or most > 65535:
            raise ValueError(f"has pixels from {least} to {most}, outside of 16 bits")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")  # 65535 / 257 = 255, rounded
    if image.mode == "F":  # Pillow would cut off all but 0 to 255
        raise ValueError("has floating-point pixels, whose range is not known; convert it to 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns of the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")


def _resize_and_crop(size: int):
    from torchvision.transforms import CenterCrop, Compose, Resize

    plainly = Compose([Resize(size), CenterCrop(size)])  # Pillow's bilinear filter, which always antialiases

    def resize(image: Image.Image) -> Image.Image:
        long, short = max(image.size), min(image.size)
        scaled = int(size * long / short)  # the longer side, as Resize makes it
        if scaled * size <= LARGE:
            return plainly(image)
        # A thread of an image, which would become huge before it is cropped: only what is kept is scaled.
        first = round((scaled - size) / 2)
        start, stop = first * long / scaled, (first + size) * long / scaled
        box = (start, 0, stop, short) if image.width == long else (0, start, short, stop)
        return image.resize((size, size), Image.Resampling.BILINEAR, box=box)

    return resize
