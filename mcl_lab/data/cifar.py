"""CIFAR-10 and CIFAR-100 by torchvision's own loaders, with errors that say which file to put where."""

import contextlib
import http.client
import socket
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mcl_lab.errors import InputError
from mcl_lab.host.files import alone_in

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10  # which CIFAR100 is a subclass of

Part = tuple[Tensor, Tensor, tuple[str, ...]]  # images (N, 3, 32, 32) uint8, labels (N,) int64, classes


def load(name: str, root: Path, checksums: Mapping[str, str] | None = None) -> tuple[Part, Part]:
    """Train and test part of torchvision's data set `name`, CIFAR10 or CIFAR100, in the folder `root`.

    Nothing is written when the files lie there unpacked. `checksums`: see `datasets.cifar100`.
    Raises InputError `data.root`.
    """
    try:
        return _load(name, root, checksums)
    except OSError as error:  # no permission, a disk that fails
        raise InputError("data.root", f"{error.filename or root} cannot be read: {error.strerror or error}") from error


def _load(name: str, root: Path, checksums: Mapping[str, str] | None) -> tuple[Part, Part]:
    # A second or more to import, which the other sources need not wait for.
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, name)
    if checksums is not None:
        dataset = _with_checksums(dataset, checksums)
    try:
        train = dataset(root, train=True)
    except RuntimeError:  # not there, or corrupt
        _download(dataset, root)
        train = dataset(root, train=True)
    return _part(train), _part(dataset(root, train=False))


def _part(dataset: "CIFAR10") -> Part:
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(dataset.targets), tuple(dataset.classes)


def _with_checksums(dataset: "type[CIFAR10]", checksums: Mapping[str, str]) -> "type[CIFAR10]":
    members = {
        split: [[name, checksums[name]] for name, _ in getattr(dataset, split)] for split in ("train_list", "test_list")
    }
    meta = {**dataset.meta, "md5": checksums[dataset.meta["filename"]]}
    return type(dataset.__name__, (dataset,), {"tgz_md5": checksums[dataset.filename], "meta": meta, **members})


def _download(dataset: "type[CIFAR10]", root: Path) -> None:
    """Unpacks the archive in `root`, downloading it first when it is missing or corrupt."""
    from torchvision.datasets.utils import check_integrity

    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    archive, lock = root / dataset.filename, root / f".{dataset.filename}.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        # The jobs of a sweep start together and must not write one file at once: the others wait for the first.
        with alone_in(lock), _network_timeout(30):
            try:
                dataset(root, download=True)
            finally:
                lock.unlink(missing_ok=True)
    # What torchvision lets through: no network, no space, no permission; a wrong checksum; a bad archive.
    except (OSError, http.client.HTTPException, RuntimeError, tarfile.TarError, EOFError, zlib.error) as error:
        if not archive.exists():
            problem = f"{archive} is not there and cannot be downloaded; put {dataset.url} there"
        elif not check_integrity(archive, dataset.tgz_md5):
            problem = f"{archive} is corrupt and cannot be downloaded again; put a sound copy of {dataset.url} there"
        else:
            problem = f"{archive} cannot be unpacked into {root / dataset.base_folder}"
        for folder in made:
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()
        raise InputError("data.root", f"{problem} ({error})") from error


@contextlib.contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """A compute node's firewall often drops packets silently; without a limit, the attempt would last minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
