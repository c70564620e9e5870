"""Files that Pillow cannot read, or reads as something else than their pixels: the reason, and what is left out."""

import ctypes
import io
import logging
import os
import re
import resource
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mcl_lab.data.datasets import imagefolder
from mcl_lab.data.image_files import ImageFiles, read
from mcl_lab.errors import InputError

NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(width: int, height: int, rows: bytes) -> bytes:
    """A grey PNG of one bit a pixel."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def read_one(tmp_path, content: bytes | Image.Image, name: str = "x.png", size: int = 32):
    """The pixels (size, size, 3) of one file, and why it cannot be read, or None."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else encoded(content, "PNG"))
    images, reasons = read(ImageFiles(tmp_path, "data.images.train", [str(path)], [0], ("one",)), size)
    return images[0].permute(1, 2, 0).numpy(), reasons.get(0)


RED = np.array([200, 30, 40], dtype=np.uint8)
# 200 - 0.344 * 20 - 0.714 * 30 and the like, by the formulas of JPEG (ITU-T T.871) for Y, Cb, Cr = 120, 148, 158
YCBCR = np.array([120 + 1.402 * 30, 120 - 0.344136 * 20 - 0.714136 * 30, 120 + 1.772 * 20])


@pytest.mark.parametrize(
    ("format", "image", "options", "colour"),
    [
        ("PNG", Image.new("L", (32, 32), 77), {}, [77] * 3),
        ("PNG", Image.new("L", (32, 32), 77), {"transparency": 77}, [77] * 3),
        ("PNG", Image.new("RGB", (32, 32), (200, 30, 40)), {"transparency": (200, 30, 40)}, RED),
        ("PNG", Image.new("LA", (32, 32), (50, 0)), {}, [50] * 3),
        ("PNG", Image.new("1", (32, 32), 1), {}, [255] * 3),
        ("PNG", Image.new("1", (32, 32), 0), {"transparency": 0}, [0] * 3),
        ("PNG", Image.new("RGBA", (32, 32), (200, 30, 40, 0)), {}, RED),
        ("PNG", Image.new("I;16", (32, 32), 65535), {}, [255] * 3),
        ("TIFF", Image.new("I;16", (32, 32), 257 * 99 + 128), {}, [99] * 3),
        ("TIFF", Image.new("I;16", (32, 32), 257 * 99 + 129), {}, [100] * 3),
        ("TIFF", Image.new("I", (32, 32), 257 * 99), {}, [99] * 3),
        ("TIFF", Image.new("YCbCr", (32, 32), (120, 148, 158)), {}, YCBCR),
        ("TIFF", Image.new("CMYK", (32, 32), (55, 225, 215, 0)), {}, RED),
        ("JPEG", Image.new("CMYK", (32, 32), (55, 225, 215, 0)), {"quality": 100}, RED),  # stored inverted, as Adobe's
        ("GIF", Image.new("P", (32, 32)), {"save_all": True, "append_images": [Image.new("L", (32, 32), 9)]}, [0] * 3),
        ("TIFF", Image.new("RGB", (32, 32), (200, 30, 40)), {"compression": "tiff_lzw"}, RED),
        ("WEBP", Image.new("RGBA", (32, 32), (200, 30, 40, 255)), {"lossless": True}, RED),
        ("PPM", Image.new("I", (32, 32), 257 * 99), {}, [99] * 3),
    ],
)  # fmt: skip
def test_a_mode_becomes_rgb(tmp_path, format, image, options, colour):
    pixels, why = read_one(tmp_path, encoded(image, format, **options))
    assert why is None
    rounded = format == "JPEG" or image.mode == "YCbCr"
    assert np.abs(pixels.astype(int) - np.asarray(colour)).max() <= (1 if rounded else 0)


def test_a_mode_is_what_was_saved():
    """Or else the cases above would be of other modes than they say."""
    assert b"Adobe" in encoded(Image.new("CMYK", (8, 8)), "JPEG")
    for mode, format in (("I;16", "PNG"), ("I", "TIFF"), ("YCbCr", "TIFF"), ("F", "TIFF"), ("I", "PPM")):
        assert Image.open(io.BytesIO(encoded(Image.new(mode, (8, 8)), format))).mode == mode


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (
            Image.new("F", (8, 8), 0.5),
            "has floating-point pixels, whose range is not known; convert it to 8 or 16 bits",
        ),
        (Image.new("I", (32, 32), 70000), "has pixels from 70000 to 70000, outside of 16 bits"),
        (Image.new("I", (32, 32), -3), "has pixels from -3 to -3, outside of 16 bits"),
    ],
)
def test_pixels_without_a_known_range_are_not_guessed_at(tmp_path, image, reason):
    assert read_one(tmp_path, encoded(image, "TIFF"), "x.tif")[1] == reason


def test_an_orientation_is_not_applied(tmp_path):
    image = Image.fromarray(NOISE)
    turned = Image.Exif()
    turned[0x112] = 6
    assert Image.open(io.BytesIO(encoded(image, "JPEG", exif=turned))).getexif()[0x112] == 6
    with_it, _ = read_one(tmp_path, encoded(image, "JPEG", exif=turned), "x.jpg")
    without, _ = read_one(tmp_path, encoded(image, "JPEG"), "x.jpg")
    assert np.array_equal(with_it, without)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.jpg", encoded(Image.fromarray(NOISE), "JPEG")[:-200], "image file is truncated"),
        ("text.jpg", b"not a picture\n" * 50, "is no image of a known format"),
        ("nothing.jpg", b"", "is empty"),
        ("head.png", encoded(Image.fromarray(NOISE), "PNG")[:29] + b"\0\0\0\0", "is no image of a known format"),
        ("cut.tif", encoded(Image.fromarray(NOISE), "TIFF")[:300], "image file is truncated"),
    ],
)
def test_the_reason_is_given(tmp_path, name, content, reason):
    assert reason in read_one(tmp_path, content, name)[1]


def test_a_png_with_other_pixels_than_its_checksum_says(tmp_path):
    content = bytearray(encoded(Image.fromarray(NOISE), "PNG"))
    content[content.index(b"IDAT") + 1000] ^= 255
    assert read_one(tmp_path, bytes(content))[1] is not None


def test_a_single_pixel_fills_the_image(tmp_path):
    pixels, why = read_one(tmp_path, Image.new("RGB", (1, 1), (200, 30, 40)))
    assert why is None and (pixels == RED).all()


def peak_memory() -> int:
    """Bytes, since `forget_peak`."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def forget_peak() -> int:
    """The memory in use now, in bytes, from which the peak starts again."""
    ctypes.CDLL(None).malloc_trim(0)  # what other tests have freed and the process kept would be used again unseen
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the peak of memory cannot be asked for here")
    return peak_memory()


@pytest.mark.parametrize("turned", [False, True])
def test_a_thread_of_an_image_does_not_fill_the_memory(tmp_path, turned):
    """50,000 pixels long and one wide, at 224 pixels a side: scaled as a whole it would have 2.5 billion pixels."""
    line = np.zeros((50_000, 1, 3), dtype=np.uint8)
    line[25_000:] = 255  # the middle, and so the image, is half black and half white
    image = Image.fromarray(line.transpose(1, 0, 2) if turned else line)
    before = forget_peak()
    pixels, why = read_one(tmp_path, image, size=224)
    assert why is None and peak_memory() - before < 2**28
    pixels = pixels.transpose(1, 0, 2) if turned else pixels
    # A row lies at (row - 112 + 1/2) / 224 from the border; between two pixels' centres the colour goes linearly.
    expected = np.clip((np.arange(224) - 112 + 0.5) / 224 + 0.5, 0, 1) * 255
    assert np.abs(pixels.astype(float) - expected[:, None, None]).max() <= 1


def test_a_thread_is_scaled_as_any_image_is(tmp_path):
    """The same pixels as by scaling the whole of it."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 30_001, 3), dtype=np.uint8))
    ours, _ = read_one(tmp_path, noise, size=48)  # 480,016 x 48 pixels, above the limit
    first = round((480_016 - 48) / 2)
    whole = noise.resize((480_016, 48), Image.Resampling.BILINEAR).crop((first, 0, first + 48, 48))
    assert np.abs(ours.astype(int) - np.asarray(whole)).max() <= 1


def test_large_images_are_decoded_one_at_a_time(tmp_path):
    """Several threads with one of 25 million pixels each would take several times the memory of one."""
    small, large = png(8, 8, b"\0\xff" * 8), png(5000, 5000, (b"\0" + b"\xff" * 625) * 5000)
    paths = []
    for number in range(129 + 128 + 128):
        paths.append(str(tmp_path / f"{number:03}.png"))
        Path(paths[-1]).write_bytes(large if number % 128 == 0 else small)
    files = ImageFiles(tmp_path, "data.images.train", paths, [0] * len(paths), ("one",))

    def peak_of(threads):
        kept = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            before = forget_peak()
            images, reasons = read(files, 8)
        finally:
            torch.set_num_threads(kept)
        assert not reasons and (images == 255).all()
        return peak_memory() - before

    one = peak_of(1)
    assert peak_of(4) < 1.5 * one


def test_an_image_of_too_many_pixels_is_unreadable(tmp_path):
    bomb = png(20_000, 10_000, b"")  # 200 million, of which nothing is stored
    before = forget_peak()
    assert "exceeds limit" in read_one(tmp_path, bomb)[1]
    assert peak_memory() - before < 2**26


@pytest.fixture
def root(tmp_path):
    """Two classes, four train images and two test images each."""
    for part, count in (("train", 4), ("test", 2)):
        for name, shade in (("cats", 10), ("dogs", 200)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (shade + number, 0, 0)).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def test_nothing_is_said_uninvited(root, monkeypatch, capfd):
    """What Pillow, libtiff and numpy would warn of: sizes, broken Exif, palettes, damaged compression."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # above it a warning, above twice of it an error
    palette = Image.fromarray(NOISE).convert("P")
    damaged = bytearray(encoded(Image.fromarray(NOISE), "TIFF", compression="tiff_lzw"))
    damaged[100:200] = b"\xff" * 100
    files = {
        "large.png": encoded(Image.new("RGB", (50, 50), (1, 2, 3)), "PNG"),
        "larger.png": encoded(Image.new("RGB", (60, 60)), "PNG"),
        "exif.jpg": encoded(Image.fromarray(NOISE), "JPEG", exif=b"Exif\0\0garbage"),
        "palette.png": encoded(palette, "PNG", transparency=bytes(range(200))),
        "damaged.tif": bytes(damaged),
    }
    for name, content in files.items():
        (root / "train/cats" / name).write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with warnings.catch_warnings(record=True) as loud:  # here they are
            Image.open(io.BytesIO(files["large.png"])).close()
        train = imagefolder(str(root), size=8, unreadable="skip").train
    assert len(loud) == 1 and not caught
    assert capfd.readouterr() == ("", "")
    assert [line.partition(":")[0] for line in train.left_out] == ["cats/damaged.tif", "cats/larger.png"]
    assert "exceeds limit" in train.left_out[1]
    assert len(train) == 8 + 3


def test_what_pillow_logs_is_not_shown(tmp_path, monkeypatch, capfd):
    """Ten samples a pixel; what nobody has asked for, Python's logging prints on stderr."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    content = encoded(Image.new("RGB", (8, 8)), "TIFF")
    spoilt = content.replace(struct.pack("<HHII", 277, 3, 1, 3), struct.pack("<HHII", 277, 3, 1, 10))
    assert spoilt != content and read_one(tmp_path, spoilt, "x.jpg")[1] == "is no image of a known format"
    assert capfd.readouterr() == ("", "")


def test_stderr_is_as_it_was_after_tiff_files(root, capfd):
    Image.new("RGB", (8, 8)).save(root / "train/cats/x.tif")
    imagefolder(str(root), size=8)
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


def test_skipped_images_are_left_out_and_named(root):
    (root / "train/cats/1.png").write_bytes(b"")
    (root / "train/dogs/0.png").write_text("text")
    (root / "test/dogs/1.png").write_text("text")
    train, test = imagefolder(str(root), size=8, unreadable="skip")
    assert train.left_out == ("cats/1.png: is empty", "dogs/0.png: is no image of a known format")
    assert test.left_out == ("dogs/1.png: is no image of a known format",)
    assert train.images[:, 0, 0, 0].tolist() == [10, 12, 13, 201, 202, 203]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (test.images[:, 0, 0, 0].tolist(), test.labels.tolist()) == ([10, 11, 200], [0, 0, 1])
    part = train.subset(torch.tensor([0, 5])).to("cpu")
    assert part.left_out == train.left_out and len(part) == 2


def test_nothing_is_left_out_of_a_healthy_folder(root):
    for skipping, refusing in zip(imagefolder(str(root), unreadable="skip"), imagefolder(str(root)), strict=True):
        assert skipping.left_out == refusing.left_out == ()
        assert torch.equal(skipping.images, refusing.images) and torch.equal(skipping.labels, refusing.labels)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_that_loses_all_images_is_refused(root, part):
    for file in (root / part / "dogs").iterdir():
        file.write_text("text")
    with pytest.raises(InputError) as error:
        imagefolder(str(root), size=8, unreadable="skip")
    count = 4 if part == "train" else 2
    assert error.value.key == f"data.images.{part}"
    assert f"{count} of {2 * count} images" in str(error.value)
    assert "among them all of dogs: dogs/0.png: " in str(error.value)


def test_a_failing_machine_is_no_unreadable_image(root):
    """Without file descriptors no image can be opened; to leave all of them out would be wrong."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    imagefolder(str(root), size=8)  # imports what opens files
    highest = max(map(int, os.listdir("/proc/self/fd"))) if os.path.isdir("/proc/self/fd") else 64
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, limits[1]))
    try:
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        files = ImageFiles(root / "test", "data.images.test", [str(root / "test/cats/0.png")], [0], ("cats",))
        with pytest.raises(InputError, match=r"^data\.images\.test: .*cats/0\.png cannot be read: Too many open files"):
            read(files, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in held:
            os.close(descriptor)


FORMATS = {
    name: encoded(Image.fromarray(NOISE[:20, :24]), name.split()[0], **options)
    for name, options in {
        "PNG": {}, "JPEG": {}, "TIFF": {}, "TIFF lzw": {"compression": "tiff_lzw"}, "TIFF jpeg": {"compression": "jpeg"},
        "BMP": {}, "GIF": {}, "WEBP": {}, "PPM": {},
    }.items()
}  # fmt: skip
CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=12)


def check_damaged(folder, format, changes, length):
    content = bytearray(FORMATS[format])
    for place, value in changes:
        content[place % len(content)] = value
    pixels, why = read_one(folder, bytes(content[:length]), "x.tif" if "TIFF" in format else "x.png", size=8)
    assert pixels.shape == (8, 8, 3)
    assert why is None or "\n" not in why and 0 < len(why) <= 150


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(FORMATS)), CHANGES, st.none() | st.integers(0, 2000))
def test_no_damage_ends_in_anything_but_a_reason(tmp_path_factory, format, changes, length):
    check_damaged(tmp_path_factory.getbasetemp(), format, changes, length)


@pytest.mark.full
@settings(max_examples=6000, deadline=None)
@given(st.sampled_from(list(FORMATS)), CHANGES, st.none() | st.integers(0, 2000))
def test_no_damage_ends_in_anything_but_a_reason_often(tmp_path_factory, format, changes, length):
    check_damaged(tmp_path_factory.getbasetemp(), format, changes, length)
