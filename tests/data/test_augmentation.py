"""The batched crop and flip against one plain image at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mcl_lab.data.augmentation import CropFlip
from mcl_lab.errors import InputError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_by_one(images, draws, padding):
    """What PIL would do: pad with black, crop, mirror."""
    result = []
    for image, (row, column, mirrored) in zip(images, draws.tolist(), strict=True):
        _, height, width = image.shape
        crop = F.pad(image, (padding,) * 4)[:, row : row + height, column : column + width]
        result.append(crop.flip(2) if mirrored else crop)
    return torch.stack(result)


@settings(max_examples=50, deadline=None)
@given(
    padding=st.integers(0, 6),
    flip=st.booleans(),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 2**32),
)
def test_same_as_one_image_at_a_time(padding, flip, shape, seed):
    augmentation = CropFlip(padding, flip)
    images = torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)
    draws = augmentation.draw(len(images), seeded(seed))
    expected = one_by_one(images, draws, padding)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        result = augmentation(images.contiguous(memory_format=memory_format), draws)
        assert result.dtype == torch.uint8
        assert torch.equal(result, expected)


def test_every_crop_and_mirror_image_is_equally_likely():
    # Distinct pixels, so that a result tells which crop it is, and a 1-pixel image would not.
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5)
    augmentation, count = CropFlip(2, True), 50_000
    draws = augmentation.draw(count, seeded(1))
    results = augmentation(image.expand(count, -1, -1, -1), draws).flatten(1)
    distinct, counts = results.unique(dim=0, return_counts=True)
    assert len(distinct) == 5 * 5 * 2
    expected = count / len(distinct)
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 85.4  # 49 degrees of freedom, p = 0.001


def test_draws_do_not_repeat_between_images_or_depend_on_each_other():
    draws = CropFlip(4, True).draw(50_000, seeded(2)).double()
    correlations = torch.corrcoef(torch.cat((draws[:-1], draws[1:]), 1).T)
    assert (correlations - torch.eye(6)).abs().max() < 0.03  # 6 standard deviations


def test_digits_are_never_mirrored():
    draws = CropFlip(4, False).draw(1000, seeded())
    assert not draws[:, 2].any()
    assert draws[:, :2].min() == 0
    assert draws[:, :2].max() == 8


def test_draws_are_a_function_of_the_generator():
    augmentation = CropFlip(4, True)
    assert torch.equal(augmentation.draw(100, seeded(3)), augmentation.draw(100, seeded(3)))
    assert not torch.equal(augmentation.draw(100, seeded(3)), augmentation.draw(100, seeded(4)))


def test_no_padding_and_no_flip_change_nothing():
    images = torch.randint(256, (5, 3, 8, 8), generator=seeded(), dtype=torch.uint8)
    augmentation = CropFlip(0, False)
    assert torch.equal(augmentation(images, augmentation.draw(5, seeded())), images)


@pytest.mark.parametrize("padding", [-1, 1.5])
def test_padding_that_is_no_number_of_pixels(padding):
    with pytest.raises(InputError, match="data.augmentation.padding: must be a whole number"):
        CropFlip(padding, True)
