"""Training and evaluation batches: what they hold, how they are normalised, and where an epoch may be resumed."""

import pytest
import torch
from torch.nn import functional as F

from mcl_lab.data.augmentation import CropFlip
from mcl_lab.data.datasets import ImageSet
from mcl_lab.data.loaders import EvaluationBatches, TrainingBatches
from mcl_lab.errors import InputError

MEAN, STD = [0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]
CLASSES = ("a", "b", "c", "d", "e")


def image_set(count=103, num_classes=5, size=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % num_classes, CLASSES[:num_classes])


def training_batches(images=None, **changes):
    arguments = {
        "batch_size": 10,
        "class_balanced": False,
        "augmentation": CropFlip(2, True),
        "mean": MEAN,
        "std": STD,
        "seed": 0,
        "channels_last": False,
    }
    return TrainingBatches(images or image_set(), **{**arguments, **changes})


def normalised(images):
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    return (images.double() / 255 - mean) / std


def same(first, second):
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


@pytest.mark.parametrize("channels_last", [False, True])
def test_evaluation_batches_are_all_images_in_order_normalised(channels_last):
    images = image_set()
    batches = EvaluationBatches(images, batch_size=25, mean=MEAN, std=STD, channels_last=channels_last)
    found = list(batches)
    assert [len(x) for x, _ in found] == [25, 25, 25, 25, 3]
    assert len(batches) == 5
    assert torch.equal(torch.cat([y for _, y in found]), images.labels)
    x = torch.cat([x for x, _ in found])
    assert x.dtype == torch.float32
    assert (x.double() - normalised(images.images)).abs().max() < 5e-7
    assert same(found, batches)  # can be gone through again
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert all(x.is_contiguous(memory_format=wanted) for x, _ in found)


def test_every_pixel_value_is_normalised_to_the_last_bits():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    images = ImageSet(values.contiguous(), torch.zeros(1, dtype=torch.int64), ("a",))
    [(x, _)] = EvaluationBatches(images, batch_size=1, mean=MEAN, std=STD, channels_last=False)
    assert (x.double() - normalised(images.images)).abs().max() < 5e-7


def test_a_shuffled_epoch_holds_every_image_once():
    images = image_set()
    batches = training_batches(images, augmentation=None)
    x, y = (torch.cat(parts) for parts in zip(*batches.epoch(0), strict=True))
    assert len(batches) == 11
    expected = normalised(images.images).flatten(1)
    distance = torch.cdist(x.double().flatten(1), expected, compute_mode="donot_use_mm_for_euclid_dist")
    origin = distance.argmin(1)
    assert distance.min(1).values.max() < 1e-4
    assert sorted(origin.tolist()) == list(range(103))
    assert torch.equal(y, images.labels[origin])


def test_images_are_padded_before_they_are_normalised_and_keep_their_labels():
    # Each image is one grey value of its own: crops hold that value or black, whatever the crop.
    values = torch.arange(100, 200, dtype=torch.uint8)
    images = ImageSet(values.view(100, 1, 1, 1).expand(100, 3, 6, 6).contiguous(), torch.arange(100) % 5, CLASSES)
    black = normalised(torch.zeros(3, 6, 6)).float()
    seen_black = 0
    for x, y in training_batches(images, augmentation=CropFlip(2, True)).epoch(0):
        for image, label in zip(x, y, strict=True):
            value = image[0, 3, 3]  # 3 pixels from the edge: never black
            place = ((value * STD[0] + MEAN[0]) * 255 - 100).round().long()
            assert label == place % 5
            foreground = normalised(images.images[place]).float()
            is_black = torch.isclose(image, black, atol=1e-5)
            assert (is_black | torch.isclose(image, foreground, atol=1e-5)).all()
            seen_black += int(is_black.any())
    assert seen_black > 80  # 96 of 100 crops are off the centre


def test_an_epoch_is_augmented_as_by_one_crop_and_flip_each():
    images = image_set(60)
    plain = torch.cat([x for x, _ in training_batches(images, augmentation=None).epoch(3)])
    augmented = torch.cat([x for x, _ in training_batches(images).epoch(3)])
    black = normalised(torch.zeros(3, 1, 1)).float()
    padded = F.pad(plain - black, (2, 2, 2, 2)) + black  # same images, same order
    crops = torch.stack([padded[:, :, r : r + 8, c : c + 8] for r in range(5) for c in range(5)])
    crops = torch.cat((crops, crops.flip(4)))  # (50, N, 3, H, W), every result that there can be
    matches = torch.isclose(crops, augmented, atol=1e-5).flatten(2).all(2)
    assert matches.any(0).all()
    assert len(set(matches.int().argmax(0).tolist())) > 25


@pytest.mark.parametrize("class_balanced", [False, True])
@pytest.mark.parametrize("augmentation", [None, CropFlip(2, True)])
def test_an_epoch_started_anywhere_is_the_tail_of_the_whole(class_balanced, augmentation):
    batches = training_batches(class_balanced=class_balanced, augmentation=augmentation)
    whole = list(batches.epoch(4))
    assert len(whole) == len(batches) == (10 if class_balanced else 11)
    for start in range(len(whole) + 1):
        fresh = training_batches(class_balanced=class_balanced, augmentation=augmentation)
        assert same(fresh.epoch(4, start=start), whole[start:])


def test_epochs_and_seeds_differ_and_nothing_else_matters():
    def epoch(seed, number):
        return torch.cat([x for x, _ in training_batches(seed=seed).epoch(number)])

    torch.manual_seed(0)
    numbers = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2), (0, 2**32)]
    epochs = [epoch(*number) for number in numbers]
    for i, first in enumerate(epochs):
        assert not any(torch.equal(first, second) for second in epochs[i + 1 :])
    state = torch.manual_seed(1).get_state()
    assert torch.equal(epoch(0, 1), epochs[1])
    assert torch.equal(torch.get_rng_state(), state)  # the global random state is not touched


def test_class_balanced_batches_hold_each_class():
    for _, y in training_batches(class_balanced=True).epoch(0):
        assert y.bincount().tolist() == [2] * 5


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format_of_training_batches(channels_last):
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    x, _ = next(training_batches(channels_last=channels_last).epoch(0))
    assert x.is_contiguous(memory_format=wanted)
    y, _ = next(training_batches().epoch(0))
    assert torch.equal(x, y)


def test_a_single_image_is_no_last_batch():
    batches = training_batches(image_set(21))
    assert [len(x) for x, _ in batches.epoch(0)] == [10, 10]
    assert len(batches) == 2
    batches = training_batches(image_set(7))
    assert [len(x) for x, _ in batches.epoch(0)] == [7]
    assert len(batches) == 1


def test_warnings_of_small_classes():
    assert training_batches(class_balanced=True).warnings == []
    [warning] = training_batches(image_set(11), class_balanced=True, batch_size=11).warnings
    assert "b (2)" in warning


@pytest.mark.parametrize(
    ("count", "changes", "key"),
    [
        (103, {"batch_size": 1}, "data.batch_size"),
        (103, {"batch_size": 1, "class_balanced": True}, "data.batch_size"),
        (103, {"batch_size": 104, "class_balanced": True}, "data.batch_size"),
        (1, {}, "data.images"),
        (8, {"batch_size": 4, "class_balanced": True}, "data.images"),  # classes d and e have one image each
    ],
)
def test_batches_that_cannot_be_made(count, changes, key):
    with pytest.raises(InputError) as error:
        training_batches(image_set(count), **changes)
    assert error.value.key == key


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("class_balanced", [False, True])
def test_batches_on_a_gpu_are_those_of_the_cpu_without_waiting(class_balanced):
    expected = list(training_batches(class_balanced=class_balanced).epoch(2))
    batches = training_batches(image_set().to("cuda"), class_balanced=class_balanced).epoch(2)
    found = [next(batches)]
    torch.cuda.set_sync_debug_mode("error")  # from here on nothing may wait for the device
    try:
        found += list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (x, y), (x_cpu, y_cpu) in zip(found, expected, strict=True):
        assert torch.equal(y.cpu(), y_cpu)
        assert torch.allclose(x.cpu(), x_cpu, atol=1e-6)
