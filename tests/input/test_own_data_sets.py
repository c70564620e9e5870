"""What somebody's own source of images promises is checked before anything is trained on it."""

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from mcl_lab.assembly.data import build_data
from mcl_lab.data.datasets import ImageSet, Splits
from mcl_lab.errors import InputError

CLASSES = ("cat", "dog", "owl")


def part(count=6, size=8, classes=CLASSES, labels=None):
    pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(count) % len(classes) if labels is None else labels, classes)


def sound():
    return Splits(part(), part())


def other_order():
    return Splits(part(), part(classes=("dog", "cat", "owl")))


def more_classes():
    return Splits(part(), part(classes=(*CLASSES, "fox")))


def other_size():
    return Splits(part(), part(size=9))


def nothing_to_test():
    return Splits(part(), part(count=0))


def strided():
    """As read from arrays of (N, H, W, 3) and from a column of labels: the same content in another order in memory."""
    turned = part().images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    labels = torch.stack([part().labels, part().labels], dim=1)[:, 0]
    return Splits(ImageSet(turned, labels, CLASSES), part())


def built(source):
    images = {"_target_": f"{__name__}.{source.__name__}"}
    data = {"name": "mine", "images": images, "validation": 0, "mean": None, "std": None}
    return build_data(OmegaConf.create(data), torch.device("cpu"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (other_order, "other classes than the training images, or in another order"),
        (more_classes, "other classes"),
        (other_size, "8x8 and 9x9"),
        (nothing_to_test, "there are no test images"),
    ],
)
def test_parts_that_do_not_go_together(source, words):
    with pytest.raises(InputError, match=words) as error:
        built(source)
    assert error.value.key == "data.images"


def test_the_order_in_memory_does_not_matter():
    assert built(strided).facts == built(sound).facts


def one_class_to_test():
    odd = replace(part(count=1500), remarks=("taken on the 1st of April (3)", "left out (2 .gif)"))
    return Splits(odd, part(count=2, labels=torch.tensor([1, 1])))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (sound, "mine: 6 train and 6 test images of 3 classes, 8x8 pixels"),
        (
            one_class_to_test,
            "mine: 1,500 train and 2 test images of 3 classes, 8x8 pixels; no test image of cat, owl; "
            "train: taken on the 1st of April (3), left out (2 .gif)",
        ),
    ],
)
def test_a_line_tells_what_the_images_are(source, line):
    assert built(source).description == line
