"""Which files of a folder are images of which class, healthy folders and others."""

import os
import socket
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from mcl_lab.data.datasets import imagefolder
from mcl_lab.data.image_files import scan
from mcl_lab.errors import InputError

FOLDERS = st.text("ab-. é中\x1b\n\udcff", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
FILES = st.tuples(FOLDERS, st.sampled_from([".jpg", ".JPG", ".Png", ".tiff", ".txt", ".gif", "", "jpg"])).map("".join)
TREES = st.recursive(
    st.none(), lambda inner: st.dictionaries(FOLDERS, inner, max_size=3) | st.dictionaries(FILES, st.none(), max_size=4)
)


def plant(folder: Path, tree: dict | None) -> None:
    """None is a file."""
    if tree is None:
        folder.write_text("")
        return
    folder.mkdir()
    for name, inner in tree.items():
        plant(folder / name, inner)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(FOLDERS, st.dictionaries(FILES, TREES, max_size=4), max_size=3))
def test_a_healthy_folder_is_what_torchvision_finds(tree):
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "train")
        plant(folder, tree)
        try:
            expected = ImageFolder(folder)
        except FileNotFoundError:  # no class, or one without images
            expected = None
        if expected is None or len(expected.classes) < 2:
            with pytest.raises(InputError, match=r"^data\.images\.train: "):
                scan(folder, "data.images.train")
        else:
            found = scan(folder, "data.images.train")
            assert list(zip(found.paths, found.labels, strict=True)) == expected.samples
            assert list(found.classes) == expected.classes


def test_the_order_is_by_folder_and_then_by_name(tmp_path):
    """The same on every file system: a run goes on only with images in the order in which it began."""
    for name in ("b/z.jpg", "b/a/y.jpg", "b/a-/x.jpg", "b/a/c/w.jpg", "b/Z.jpg", "a/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = scan(tmp_path, "data.images.train")
    names = [os.path.relpath(path, tmp_path) for path in found.paths]
    assert names == ["a/1.jpg", "b/Z.jpg", "b/z.jpg", "b/a/y.jpg", "b/a-/x.jpg", "b/a/c/w.jpg"]


@pytest.fixture
def root(tmp_path):
    """Two classes, two train images and a test image each, in a folder of their own."""
    for part, count in (("train", 2), ("test", 1)):
        for name, shade in (("cats", 10), ("dogs", 200)):
            for number in range(count):
                file = tmp_path / "data" / part / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (shade, 0, 0)).save(file)
    return tmp_path / "data"


def of_train(root) -> list[tuple[str, str]]:
    """(class, path) of each training image."""
    found = scan(root / "train", "data.images.train")
    return [
        (found.classes[label], os.path.relpath(path, root / "train"))
        for path, label in zip(found.paths, found.labels, strict=True)
    ]


PLAIN = [("cats", "cats/0.png"), ("cats", "cats/1.png"), ("dogs", "dogs/0.png"), ("dogs", "dogs/1.png")]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "/", "../cats", "loop"])
def test_a_link_to_a_folder_above_adds_nothing(root, target):
    (root / "train/cats/loop").symlink_to(target)
    assert of_train(root) == PLAIN


@pytest.mark.parametrize("target", ["..", "data"])
def test_a_link_above_a_class_that_lies_elsewhere_adds_nothing(root, tmp_path, target):
    (tmp_path / "far/away/others").mkdir(parents=True)
    (tmp_path / "far/away/others/1.png").write_text("")
    (root / "train/cats").rename(tmp_path / "far/away/cats")
    (root / "train/cats").symlink_to(tmp_path / "far/away/cats")
    (tmp_path / "far/away/cats/up").symlink_to(".." if target == ".." else root)
    assert of_train(root) == PLAIN


def test_folders_that_link_to_one_another_are_walked_once_each(root):
    """Twenty folders with links to all others: more ways through them than one could ever walk."""
    folders = [root / "train/cats" / f"{number:02}" for number in range(20)]
    for folder in folders:
        folder.mkdir()
        (folder / "x.png").write_text("")
    for folder in folders:
        for other in folders:
            (folder / f"to{other.name}").symlink_to(f"../{other.name}")
    found = [path for name, path in of_train(root) if name == "cats"]
    assert len(found) == 2 + 20 and len({os.path.realpath(root / "train" / path) for path in found}) == 2 + 20


def test_links_to_other_folders_and_files_count(root, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/9.png").write_text("")
    (root / "train/cats/more").symlink_to(tmp_path / "more")
    (root / "train/cats/2.png").symlink_to("0.png")
    (root / "train/pets").symlink_to("dogs")  # a class by two names
    samples = [os.path.relpath(path, root / "train") for path, _ in ImageFolder(root / "train").samples]
    assert [path for _, path in of_train(root)] == samples
    assert {"cats/more/9.png", "cats/2.png", "pets/1.png"} < set(samples)


def test_a_class_that_is_a_link_to_nowhere_is_named(root, tmp_path):
    """Otherwise a disk that is not mounted would make another task of fewer classes."""
    for part in ("train", "test"):
        (root / part / "owls").symlink_to(tmp_path / "not mounted")
    with pytest.raises(InputError, match=r"^data\.images\.train: .*/train/owls is a link that leads nowhere"):
        imagefolder(str(root))


def special(path: Path, kind: str) -> None:
    match kind:
        case "pipe":
            os.mkfifo(path)
            # A reader that waits for a writer would wait for ever: after a while there is one.
            timer = threading.Timer(20, lambda: os.close(os.open(path, os.O_RDWR)))
            timer.daemon = True
            timer.start()
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(os.path.relpath(path))  # the whole path may be too long for a socket's name
        case "device":
            path.symlink_to("/dev/zero")
        case "dangling":
            path.symlink_to("gone.jpg")
        case "circle":
            path.symlink_to(path.name)
        case "empty":
            path.write_bytes(b"")
        case "macOS":
            path.write_bytes(b"\0\x05\x16\x07\0\2\0\0Mac OS X        ")


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("pipe", "x.jpg", "is no regular file"),
        ("socket", "x.jpg", "is no regular file"),
        ("device", "x.jpg", "is no regular file"),
        ("dangling", "x.jpg", "No such file or directory"),
        ("circle", "x.jpg", "Too many levels of symbolic links"),
        ("empty", "x.jpg", "is empty"),
        ("macOS", "._0.png", "is no image of a known format"),
    ],
)
def test_what_is_no_image_but_named_so_is_unreadable(root, kind, name, reason):
    special(root / "train/dogs" / name, kind)
    with pytest.raises(InputError) as error:
        imagefolder(str(root), size=8)
    assert error.value.key == "data.images.train"
    assert "1 of 5 images" in str(error.value) and f"dogs/{name}: {reason}" in str(error.value)
    train = imagefolder(str(root), size=8, unreadable="skip").train
    assert train.left_out == (f"dogs/{name}: {reason}",)
    assert train.labels.tolist() == [0, 0, 1, 1] and train.images[:, 0, 0, 0].tolist() == [10, 10, 200, 200]


def test_what_may_be_a_mistake_in_a_folder_is_told(root):
    assert imagefolder(str(root), size=8).train.remarks == ()
    dogs = root / "train/dogs"
    for name in ("a.gif", "b.GIF", "c.jfif", "notes.txt", "LICENSE", ".DS_Store"):
        (dogs / name).touch()
    (root / "train/beside.jpg").touch()
    (root / "train/beside.txt").touch()
    for inner in ("old", "old/older"):
        (dogs / inner).mkdir()
        Image.new("RGB", (8, 8)).save(dogs / inner / "0.png")
    for part in ("train", "test"):
        (root / part / ".ipynb_checkpoints").mkdir()
        Image.new("RGB", (8, 8)).save(root / part / ".ipynb_checkpoints" / "0.png")
    train, test = imagefolder(str(root), size=8)
    hidden = "taken as classes, though hidden (.ipynb_checkpoints)"
    assert train.remarks == (
        "left out by extension (2 .gif, 1 .jfif, 1 .txt, 1 without extension)",
        "left out outside of any class (1)",
        "taken from folders in folders (1 in dogs/old, 1 in dogs/old/older)",
        hidden,
    )
    assert test.remarks == (hidden,) and len(train) == 7 and train.subset(train.labels == 0).remarks == train.remarks


def test_a_class_of_other_files_is_told_what_counts(root):
    for file in (root / "train/dogs").iterdir():
        file.rename(file.with_suffix(".gif"))
    with pytest.raises(
        InputError, match=r"no image in .*/train of dogs; remove the folder or fill it with images \(\.jpg, "
    ):
        imagefolder(str(root), size=8)


def test_a_folder_with_an_images_name_is_a_folder(root):
    (root / "train/cats/0.png").rename(root / "train/a.png")
    (root / "train/cats/0.png").mkdir()
    (root / "train/a.png").rename(root / "train/cats/0.png/7.png")
    assert ("cats", "cats/0.png/7.png") in of_train(root)


def test_files_without_an_images_name_are_passed_over(root):
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "jpg", "x.jpg~", "x.jpg.part"):
        (root / "train/cats" / name).write_text("")
    (root / "train/cats/link").symlink_to("nowhere")
    (root / "train/README.jpg").write_text("")  # in no class
    assert of_train(root) == PLAIN


@pytest.fixture
def as_nobody():
    """Permissions say nothing to root: as another user, in a folder that is open to all."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        mine = os.geteuid()
        if mine == 0:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            for path, folders, _ in os.walk(folder):
                for name in folders:
                    os.chmod(os.path.join(path, name), 0o700)
            if mine == 0:
                os.seteuid(0)


@pytest.mark.parametrize("closed", ["train/cats/inner", "train/cats", "train"])
def test_a_folder_that_may_not_be_read_is_named(as_nobody, closed):
    for part in ("train", "test"):
        for name in ("cats/inner", "dogs"):
            (as_nobody / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(as_nobody / part / name / "0.png")
    assert len(imagefolder(str(as_nobody), size=8).train) == 2
    (as_nobody / closed).chmod(0o000)
    for unreadable in ("refuse", "skip"):
        with pytest.raises(InputError) as error:
            imagefolder(str(as_nobody), size=8, unreadable=unreadable)
        assert error.value.key == "data.images.train" and str(error.value).count("\n") == 0
        assert f"the folder {as_nobody / closed} cannot be read: Permission denied" in str(error.value)


def test_a_file_that_may_not_be_read_is_unreadable(as_nobody):
    for part in ("train", "test"):
        for name in ("cats", "dogs"):
            (as_nobody / part / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8)).save(as_nobody / part / name / f"{number}.png")
    (as_nobody / "test/cats/1.png").chmod(0o000)
    with pytest.raises(InputError, match="1 of 4 images.*cats/1.png: Permission denied"):
        imagefolder(str(as_nobody), size=8)
    assert imagefolder(str(as_nobody), size=8, unreadable="skip").test.left_out == ("cats/1.png: Permission denied",)
