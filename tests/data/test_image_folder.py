"""Folders of images of every mode and size, and the folders that are no data set."""

import numpy as np
import pytest
import torch
from PIL import Image

from mcl_lab.data.datasets import imagefolder
from mcl_lab.errors import InputError

RED, GREEN = (200, 30, 40), (20, 180, 60)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def plain(colour=RED, size=(32, 32)):
    return Image.new("RGB", size, colour)


@pytest.fixture
def root(tmp_path):
    """Two classes, three train and one test image each."""
    for part, count in (("train", 3), ("test", 1)):
        for name, colour in (("red", RED), ("green", GREEN)):
            for number in range(count):
                save(tmp_path / part / name / f"{number}.png", plain(colour))
    return tmp_path


def error_of(*args, **kwargs):
    with pytest.raises(InputError) as error:
        imagefolder(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{error.value.key}: ")
    return error.value.key, message


def test_images_are_read_by_class_and_name(root):
    for number, value in ((5, 10), (12, 20)):
        save(root / "train" / "red" / f"{number}.png", plain((value, value, value)))
    train, test = imagefolder(str(root))
    assert train.classes == test.classes == ("green", "red")
    assert train.labels.tolist() == [0] * 3 + [1] * 5
    assert test.labels.tolist() == [0, 1]
    reds = [RED[0], RED[0], 20, RED[0], 10]  # 0, 1, 12, 2, 5
    assert train.images[3:, 0].flatten(1).unique(dim=1).flatten().tolist() == reds
    assert (test.images[0] == torch.tensor(GREEN).view(3, 1, 1)).all()


def test_images_of_the_right_size_are_not_changed(root):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    save(root / "test" / "red" / "0.png", Image.fromarray(pixels))
    assert np.array_equal(imagefolder(str(root)).test.images[1].permute(1, 2, 0).numpy(), pixels)


def test_every_mode_becomes_rgb(root):
    grey = np.arange(0, 1024, dtype=np.uint16).reshape(32, 32) * 64  # the whole range of 16 bits
    palette = plain().convert("P", palette=Image.Palette.ADAPTIVE)
    transparent = palette.copy()
    transparent.info["transparency"] = bytes([255, 128])
    images = {
        "a_grey.png": Image.new("L", (32, 32), 77),
        "b_palette.png": palette,
        "c_transparent.png": transparent,
        "d_cmyk.jpg": plain((0, 0, 0)).convert("CMYK"),
        "e_16_bit.png": Image.fromarray(grey),
        "f_bilevel.png": Image.new("1", (32, 32), 1),
        "g_rgba.png": Image.new("RGBA", (32, 32), (*RED, 100)),
        "h_grey_alpha.png": Image.new("LA", (32, 32), (50, 200)),
    }
    for name, image in images.items():
        save(root / "train" / "modes" / name, image)
    save(root / "test" / "modes" / "0.png", plain())
    train = imagefolder(str(root)).train
    found = train.images[train.labels == train.classes.index("modes")]

    def filled(*colour):
        return torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32)

    expected_16_bit = torch.from_numpy(np.round(grey / 65535 * 255).astype(np.uint8)).expand(3, 32, 32)
    colours = [(77, 77, 77), RED, RED, (0, 0, 0), None, (255, 255, 255), RED, (50, 50, 50)]
    for name, image, colour in zip(images, found, colours, strict=True):
        expected = expected_16_bit if colour is None else filled(*colour)
        assert torch.equal(image, expected), name


@pytest.mark.parametrize("size", [(64, 32), (32, 90), (100, 64), (20, 10), (33, 32), (16, 200)])
def test_odd_sizes_are_scaled_at_the_shorter_side_and_cropped_at_the_centre(root, size):
    # Red in the middle of the longer side, as wide as the image is high, green beside it.
    width, height = size
    side = min(size)
    image = plain(GREEN, size)
    image.paste(RED, ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))
    save(root / "test" / "red" / "0.png", image)
    result = imagefolder(str(root)).test.images[1]
    inner = result[:, 4:-4, 4:-4]  # the filter mixes colours at the edges
    assert (inner == torch.tensor(RED).view(3, 1, 1)).all()


def test_scaling_is_antialiased(root):
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255  # nearest or plain bilinear scaling would pick black or white
    save(root / "test" / "red" / "0.png", Image.fromarray(stripes))
    result = imagefolder(str(root)).test.images[1]
    assert ((result.int() - 127).abs() <= 8).all()


def test_another_size(root):
    train, test = imagefolder(str(root), size=10)
    assert train.images.shape == (6, 3, 10, 10)
    assert test.images.shape == (2, 3, 10, 10)


def test_limit_takes_the_first_training_images_of_each_class(root):
    for number in (5, 12):
        save(root / "train" / "red" / f"{number}.png", plain((number, number, number)))
    train, test = imagefolder(str(root), limit=4)
    assert train.labels.tolist() == [0] * 3 + [1] * 4
    assert train.images[3:, 0, 0, 0].tolist() == [RED[0], RED[0], 12, RED[0]]
    assert len(imagefolder(str(root), limit=1).train) == 2
    assert len(test) == 2


def test_more_images_than_one_thread_takes_at_once_stay_in_order(root):
    values = list(range(200))
    for value in values:
        save(root / "train" / "blue" / f"{value:03}.png", plain((0, 0, value), (8, 8)))
    save(root / "test" / "blue" / "0.png", plain())
    train = imagefolder(str(root), size=8).train
    assert train.classes[0] == "blue"
    assert train.images[:200, 2, 0, 0].tolist() == values


def test_the_test_folder_may_be_called_val(root):
    (root / "test").rename(root / "val")
    assert len(imagefolder(str(root)).test) == 2
    save(root / "val" / "red" / "1.png", plain())
    (root / "val").rename(root / "dev")
    assert len(imagefolder(str(root), test="dev").test) == 3
    key, message = error_of(str(root))
    assert key == "data.images.test"
    assert str(root) in message


def test_test_is_taken_before_val(root):
    save(root / "val" / "red" / "0.png", plain())
    assert len(imagefolder(str(root)).test) == 2


def test_missing_folders(root):
    key, message = error_of(str(root / "nowhere"))
    assert key == "data.root"
    assert str(root / "nowhere") in message
    assert error_of(str(root), train="training")[0] == "data.images.train"
    key, message = error_of(str(root), test="testing")
    assert key == "data.images.test"
    assert str(root / "testing") in message


@pytest.mark.parametrize("part", ["train", "test"])
def test_empty_folders(tmp_path, root, part):
    empty = tmp_path / "empty"
    empty.mkdir()
    key, message = error_of(str(root), **{part: "empty"})
    assert key == f"data.images.{part}"
    assert f"{empty} is empty" in message
    (empty / "red").mkdir()
    (empty / "red" / "notes.txt").write_text("no image")
    key, message = error_of(str(root), **{part: "empty"})
    assert key == f"data.images.{part}"
    assert "holds an image" in message and ".jpg" in message


def test_one_class_only(tmp_path):
    for part in ("train", "test"):
        save(tmp_path / part / "red" / "0.png", plain())
    key, message = error_of(str(tmp_path))
    assert key == "data.images.train"
    assert "one class only, red" in message


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_without_images_is_named(root, part):
    (root / part / "blue").mkdir()
    key, message = error_of(str(root))
    assert key == f"data.images.{part}"
    assert "blue" in message and "green" not in message


def test_differing_classes_are_named(root):
    save(root / "train" / "blue" / "0.png", plain())
    key, message = error_of(str(root))
    assert key == "data.images.test"
    assert "lacks blue" in message
    save(root / "test" / "grey" / "0.png", plain())
    assert "lacks blue and has grey, which the training images lack" in error_of(str(root))[1]


@pytest.mark.parametrize("part", ["train", "test"])
def test_unreadable_images_are_counted_and_named(root, part):
    noise = root / part / "red" / "noise.png"
    save(noise, Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)))
    for number in range(7):
        (root / part / "red" / f"bad{number}.png").write_bytes(noise.read_bytes()[: 200 * number])
    (root / part / "green" / "bad.jpg").write_text("not a picture")
    key, message = error_of(str(root))
    assert key == f"data.images.{part}"
    assert f"8 of {15 if part == 'train' else 11} images" in message
    first = ["green/bad.jpg: is no image of a known format", "red/bad0.png: is empty"]
    assert ": " + "; ".join(first) + "; red/bad1.png: " in message and message.endswith(" and 3 more")
    assert "data.images.unreadable=skip" in message


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_size_of_no_pixels(root, size):
    assert error_of(str(root), size=size)[0] == "data.images.size"


@pytest.mark.parametrize("limit", [0, -1, 2.5])
def test_a_limit_of_no_images(root, limit):
    assert error_of(str(root), limit=limit)[0] == "data.images.limit"
