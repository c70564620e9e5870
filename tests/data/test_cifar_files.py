"""CIFAR files in the official format, small ones, through torchvision's own classes and checksums; no network."""

import errno
import fcntl
import hashlib
import io
import os
import pickle
import socket
import subprocess
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from shell import remount, small_file_system

from mcl_lab.data import datasets
from mcl_lab.errors import InputError

FINE = [f"fine{n}" for n in range(100)]
OBJECTS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Archive:
    """A small data set in the format of the official archive: its bytes, its checksums and what is in it."""

    def __init__(self, source, folder, filename, train, test, meta, label_key, num_classes):
        generator = np.random.default_rng(0)
        self.load, self.folder, self.filename = source, folder, filename
        self.pixels, self.labels, members = {}, {}, dict([meta])
        for name in [*train, *test]:
            pixels = generator.integers(0, 256, (20, 3072), dtype=np.uint8)
            labels = generator.integers(0, num_classes, 20).tolist()
            members[name] = pickle.dumps({"data": pixels, label_key: labels}, protocol=2)
            self.pixels[name], self.labels[name] = pixels.reshape(20, 3, 32, 32), labels
        self.train, self.test, self.members = train, test, members
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, content in members.items():
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        self.content = buffer.getvalue()
        files = {filename: self.content, **members}
        self.checksums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}

    def check(self, splits):
        for part, names in ((splits.train, self.train), (splits.test, self.test)):
            assert np.array_equal(part.images.numpy(), np.concatenate([self.pixels[name] for name in names]))
            assert part.labels.tolist() == [label for name in names for label in self.labels[name]]
            assert part.labels.dtype == torch.int64


def cifar10_archive():
    meta = ("batches.meta", pickle.dumps({"label_names": OBJECTS}))
    train = [f"data_batch_{n}" for n in range(1, 6)]
    return Archive(
        datasets.cifar10, "cifar-10-batches-py", "cifar-10-python.tar.gz", train, ["test_batch"], meta, "labels", 10
    )


def cifar100_archive():
    meta = ("meta", pickle.dumps({"fine_label_names": FINE, "coarse_label_names": []}))
    return Archive(
        datasets.cifar100, "cifar-100-python", "cifar-100-python.tar.gz", ["train"], ["test"], meta, "fine_labels", 100
    )


@pytest.fixture(params=[cifar10_archive, cifar100_archive], ids=["cifar10", "cifar100"])
def archive(request):
    return request.param()


@pytest.fixture(autouse=True)
def attempts(monkeypatch):
    """No network; the list of what was tried."""
    tried = []

    def refuse(*args, **kwargs):
        tried.append(args)
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


def test_an_archive_in_the_folder_is_unpacked(archive, tmp_path, attempts):
    (tmp_path / archive.filename).write_bytes(archive.content)
    splits = archive.load(str(tmp_path), archive.checksums)
    archive.check(splits)
    assert splits.train.classes == splits.test.classes == tuple(OBJECTS if "10-b" in archive.folder else FINE)
    assert not attempts
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([archive.folder, archive.filename])


def test_unpacked_files_are_read_and_nothing_is_written(archive, tmp_path, attempts):
    folder = tmp_path / archive.folder
    folder.mkdir()
    for name, content in archive.members.items():
        (folder / name).write_bytes(content)
    for path in (folder, tmp_path):
        path.chmod(0o555)
    archive.check(archive.load(str(tmp_path), archive.checksums))
    assert not attempts
    assert [path.name for path in tmp_path.iterdir()] == [archive.folder]


def test_a_damaged_member_is_unpacked_again(archive, tmp_path, attempts):
    (tmp_path / archive.filename).write_bytes(archive.content)
    archive.load(str(tmp_path), archive.checksums)
    (tmp_path / archive.folder / archive.test[0]).write_bytes(b"half a fi")
    archive.check(archive.load(str(tmp_path), archive.checksums))
    assert not attempts


def test_of_jobs_that_start_together_one_unpacks_and_the_others_wait(archive, tmp_path, monkeypatch):
    (tmp_path / archive.filename).write_bytes(archive.content)
    unpacked = []
    open_archive = tarfile.open

    def slowly(*args, **kwargs):
        unpacked.append(args)
        time.sleep(0.2)
        return open_archive(*args, **kwargs)

    monkeypatch.setattr(tarfile, "open", slowly)
    with ThreadPoolExecutor(4) as jobs:
        for splits in jobs.map(lambda _: archive.load(str(tmp_path), archive.checksums), range(4)):
            archive.check(splits)
    assert len(unpacked) == 1


def test_of_jobs_that_fail_one_tries_at_a_time(archive, tmp_path, monkeypatch):
    """Also when one comes while another takes over from the first."""
    (tmp_path / archive.filename).write_bytes(archive.content)
    trying, at_once = [], []

    def fails(*args, **kwargs):
        trying.append(args)
        at_once.append(len(trying))
        time.sleep(0.05)
        trying.pop()
        raise tarfile.ReadError("no disk")

    def load(_):
        with pytest.raises(InputError, match="cannot be unpacked"):
            archive.load(str(tmp_path), archive.checksums)

    monkeypatch.setattr(tarfile, "open", fails)
    with ThreadPoolExecutor(2) as jobs:
        list(jobs.map(load, range(8)))
    assert at_once == [1] * 8


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.EINVAL, errno.EACCES])
def test_a_file_system_without_locks(number, archive, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    (tmp_path / archive.filename).write_bytes(archive.content)
    monkeypatch.setattr(fcntl, "flock", refuse)
    archive.check(archive.load(str(tmp_path), archive.checksums))


def test_no_network_says_which_file_to_put_where(archive, tmp_path, attempts):
    root = tmp_path / "not" / "yet"
    with pytest.raises(InputError) as error:
        archive.load(str(root))
    assert error.value.key == "data.root"
    for part in (str(root / archive.filename), f"https://www.cs.toronto.edu/~kriz/{archive.filename}", "unreachable"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert attempts
    assert not (tmp_path / "not").exists()  # nothing is left behind
    assert socket.getdefaulttimeout() is None


def test_a_corrupt_archive_is_named(archive, tmp_path):
    path = tmp_path / archive.filename
    path.write_bytes(archive.content[:-100])
    with pytest.raises(InputError, match="is corrupt") as error:
        archive.load(str(tmp_path), archive.checksums)
    assert error.value.key == "data.root"
    assert str(path) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [archive.filename]


def test_other_files_than_the_official_ones_are_refused(archive, tmp_path):
    (tmp_path / archive.filename).write_bytes(archive.content)
    with pytest.raises(InputError, match="is corrupt"):
        archive.load(str(tmp_path))


def test_an_archive_that_cannot_be_unpacked(archive, tmp_path):
    (tmp_path / archive.filename).write_bytes(b"no archive")
    checksums = {**archive.checksums, archive.filename: hashlib.md5(b"no archive").hexdigest()}
    with pytest.raises(InputError, match="data.root: .* cannot be unpacked"):
        archive.load(str(tmp_path), checksums)


def test_a_root_that_is_a_file(archive, tmp_path):
    root = tmp_path / "file"
    root.write_text("")
    with pytest.raises(InputError, match="data.root"):
        archive.load(str(root))


def test_another_file_of_the_archives_name(archive, tmp_path):
    (tmp_path / archive.filename).write_text("<html>not found</html>")
    with pytest.raises(InputError, match="data.root: .* is corrupt and cannot be downloaded again") as error:
        archive.load(str(tmp_path), archive.checksums)
    assert "\n" not in str(error.value)


def test_a_folder_of_the_archives_name(archive, tmp_path):
    (tmp_path / archive.filename).mkdir()
    with pytest.raises(InputError, match="data.root: .* is corrupt"):
        archive.load(str(tmp_path), archive.checksums)


@pytest.fixture
def read_only(tmp_path):
    """read_only(): the folder tmp_path/mounted, on a file system of its own, becomes read-only."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield lambda: subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_unpacked_files_on_a_read_only_disk(archive, tmp_path, read_only, attempts):
    (tmp_path / "mounted" / archive.filename).write_bytes(archive.content)
    archive.load(str(tmp_path / "mounted"), archive.checksums)
    read_only()
    archive.check(archive.load(str(tmp_path / "mounted"), archive.checksums))
    assert not attempts


@pytest.mark.parametrize("there", [True, False])
def test_a_read_only_disk_without_the_unpacked_files(archive, tmp_path, read_only, there):
    if there:
        (tmp_path / "mounted" / archive.filename).write_bytes(archive.content)
    read_only()
    with pytest.raises(InputError) as error:
        archive.load(str(tmp_path / "mounted"), archive.checksums)
    assert error.value.key == "data.root" and "\n" not in str(error.value)
    assert ("cannot be unpacked" if there else "is not there and cannot be downloaded") in str(error.value)
    assert "Read-only file system" in str(error.value)


def test_a_disk_too_full_to_unpack_on(tmp_path, attempts):
    """Once there is room the same call unpacks the whole."""
    archive = cifar100_archive()
    with small_file_system(tmp_path / "small", 200) as folder:  # for the archive of 120 KB, and not for its content
        (folder / archive.filename).write_bytes(archive.content)
        with pytest.raises(InputError, match=r"^data\.root: .* cannot be unpacked into .*No space left on device"):
            archive.load(str(folder), archive.checksums)
        assert (folder / archive.filename).read_bytes() == archive.content
        remount(folder, "size=900k")
        archive.check(archive.load(str(folder), archive.checksums))
    assert not attempts


def test_files_that_may_not_be_read(archive):
    """As another user than root, to whom permissions say nothing."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / archive.filename).write_bytes(archive.content)
        archive.load(folder, archive.checksums)
        os.chmod(folder, 0o755)
        member = Path(folder) / archive.folder / archive.test[0]
        member.chmod(0o000)
        mine = os.geteuid()
        if mine == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(InputError, match=f"data.root: .*{archive.test[0]} cannot be read: Permission denied"):
                archive.load(folder, archive.checksums)
        finally:
            if mine == 0:
                os.seteuid(0)
