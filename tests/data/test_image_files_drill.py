"""Images whose trouble Pillow or its libraries hide: big-endian pixels, words on file descriptor 2, want of memory."""

import io
import os
import struct

import numpy as np
import pytest
from PIL import Image, features

from mcl_lab.data.datasets import imagefolder
from mcl_lab.data.image_files import ImageFiles, read
from mcl_lab.errors import InputError

NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def read_one(path, content: bytes):
    """The first channel (8, 8) of one file, and why it cannot be read, or None."""
    path.write_bytes(content)
    images, reasons = read(ImageFiles(path.parent, "data.images.train", [str(path)], [0], ("one",)), 8)
    return images[0, 0].numpy(), reasons.get(0)


def grey_tiff(pixels: np.ndarray, order: str) -> bytes:
    """An uncompressed TIFF of 16 bits a pixel; order: of its bytes, < or >."""
    tags = [(256, pixels.shape[1]), (257, pixels.shape[0]), (258, 16), (259, 1), (262, 1), (277, 1)]
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags = sorted([*tags, (273, start), (279, 2 * pixels.size)])
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    head = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + entries + bytes(4) + pixels.astype(f"{order}u2").tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
def test_grey_of_16_bits_in_either_order_of_bytes(tmp_path, order):
    """Big-endian ones come from microscopes and ImageJ."""
    values = np.linspace(0, 65535, 64).round().reshape(8, 8)
    content = grey_tiff(values, order)
    assert Image.open(io.BytesIO(content)).mode == ("I;16B" if order == ">" else "I;16")
    pixels, why = read_one(tmp_path / "x.tif", content)
    assert why is None and np.array_equal(pixels, np.round(values / 65535 * 255))


@pytest.fixture(scope="module")
def damaged() -> dict[str, bytes]:
    """TIFF files of which libtiff itself complains."""
    made = {}
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        content = bytearray(encoded(Image.fromarray(NOISE), "TIFF", compression=compression))
        content[100:200] = b"\xff" * 100
        made[compression] = bytes(content)
    return made


def test_libtiff_complains_of_these(damaged, capfd):
    """Or else the next test would hold nothing."""
    for content in damaged.values():
        with pytest.raises(OSError):
            Image.open(io.BytesIO(content)).load()
        assert capfd.readouterr().err


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("name", ["x.tif", "x.TIFF", "x.jpg", "x.png"])
def test_nothing_is_said_of_a_damaged_tiff_whatever_its_name(damaged, tmp_path, capfd, name, compression):
    assert "decoder error" in read_one(tmp_path / name, damaged[compression])[1]
    os.write(2, b"still here\n")
    assert capfd.readouterr() == ("", "still here\n")


def test_images_are_read_with_stderr_closed(tmp_path):
    """As by `2>&-` in a shell."""
    kept = os.dup(2)
    os.close(2)
    try:
        _, why = read_one(tmp_path / "x.png", encoded(Image.fromarray(NOISE), "PNG"))
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert why is None


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow reads no JPEG 2000")
@pytest.mark.parametrize("unreadable", ["refuse", "skip"])
def test_an_image_that_wants_memory_is_named(tmp_path, unreadable):
    """Whether the file or the machine is to blame cannot be told: nothing is left out silently."""
    for part in ("train", "test"):
        for name in ("cats", "dogs"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / "0.png")
    content = bytearray(encoded(Image.new("L", (8, 8)), "JPEG2000"))
    box = content.index(b"jp2h")
    content[box - 1] = 1  # its length stands in the next eight bytes, and is 2**54
    content[box + 4 : box + 8] = b"\0\x40\0\0"
    (tmp_path / "train/dogs/1.jpg").write_bytes(content)
    with pytest.raises(MemoryError):
        Image.open(tmp_path / "train/dogs/1.jpg").load()
    with pytest.raises(InputError, match=r"^data\.images\.train: .*/dogs/1\.jpg cannot be read: .*not enough memory"):
        imagefolder(str(tmp_path), size=8, unreadable=unreadable)
