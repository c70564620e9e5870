"""Image sets, the digits, the validation split and the channel statistics."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mcl_lab.data.datasets import ImageSet, channel_statistics, digits, imagefolder, split_validation
from mcl_lab.errors import InputError


def numbered_set(class_sizes):
    """Images whose first pixel tells which one they are."""
    labels = torch.arange(len(class_sizes)).repeat_interleave(torch.tensor(class_sizes))
    images = torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(labels))
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return ImageSet(images[shuffled], labels[shuffled], tuple(f"class{c}" for c in range(len(class_sizes))))


def numbers(images):
    return images.images[:, 0, 0, 0].tolist()


def test_digits_are_split_80_to_20_and_stratified():
    train, test = digits()
    assert (len(train), len(test)) == (1437, 360)
    assert train.classes == test.classes == tuple("0123456789")
    for part in (train, test):
        assert part.images.shape[1:] == (3, 32, 32)
        assert torch.equal(part.images[:, 0], part.images[:, 1])
        assert torch.equal(part.images[:, 0], part.images[:, 2])
    total = train.labels.bincount() + test.labels.bincount()
    assert ((test.labels.bincount() - total / 5).abs() <= 1).all()
    assert torch.equal(digits().test.labels, test.labels)


def test_digits_at_their_own_size_are_scikit_learns():
    from sklearn.datasets import load_digits

    train, test = digits(size=8)
    found = torch.cat((train.images, test.images))[:, 0].numpy()
    labels = torch.cat((train.labels, test.labels)).tolist()
    source = load_digits()
    expected = np.round(source.images * 255 / 16).astype(np.uint8)

    def images_of(pixels, labels):
        return sorted((image.tobytes(), int(label)) for image, label in zip(pixels, labels, strict=True))

    assert images_of(found, labels) == images_of(expected, source.target)


@pytest.mark.parametrize("size", [0, 7, 32.0])
def test_digits_of_no_size(size):
    with pytest.raises(InputError, match="data.images.size: must be a whole number, at least 8"):
        digits(size)


def test_subset_and_length():
    images = numbered_set([3, 4])
    part = images.subset(torch.tensor([5, 0, 5]))
    assert len(images) == 7
    assert len(part) == 3
    assert numbers(part) == [numbers(images)[place] for place in (5, 0, 5)]
    assert torch.equal(part.labels, images.labels[[5, 0, 5]])
    assert part.classes == images.classes


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "uint8"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "uint8 of shape"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "one for each image"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), "int64"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 2]), "from 0 to 1"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([-1, 0]), "from 0 to 1"),
    ],
)
def test_tensors_that_are_no_image_set(images, labels, message):
    with pytest.raises(InputError, match=message) as error:
        ImageSet(images, labels, ("a", "b"))
    assert error.value.key == "data.images"


@settings(max_examples=60, deadline=None)
@given(
    class_sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_validation_takes_its_share_of_each_class(class_sizes, share, seed):
    images = numbered_set(class_sizes)
    expected = [min(round(size * share), size - 1) for size in class_sizes]
    if not any(expected):
        with pytest.raises(InputError, match="data.validation"):
            split_validation(images, share, seed)
        return
    train, validation = split_validation(images, share, seed)
    assert sorted(numbers(train) + numbers(validation)) == sorted(numbers(images))
    assert validation.labels.bincount(minlength=len(class_sizes)).tolist() == expected
    order = {number: place for place, number in enumerate(numbers(images))}
    for part in (train, validation):
        places = [order[number] for number in numbers(part)]
        assert places == sorted(places)
        assert torch.equal(part.labels, images.labels[places])
        assert part.classes == images.classes


def test_validation_of_the_paper_set_is_exact():
    labels = torch.arange(100).repeat_interleave(500)
    images = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(50_000, -1, -1, -1)
    train, validation = split_validation(ImageSet(images, labels, tuple(map(str, range(100)))), 0.1, seed=0)
    assert validation.labels.bincount().tolist() == [50] * 100
    assert train.labels.bincount().tolist() == [450] * 100


def test_validation_is_chosen_by_the_seed_and_evenly():
    images = numbered_set([10, 10])
    assert numbers(split_validation(images, 0.3, 1)[1]) == numbers(split_validation(images, 0.3, 1)[1])
    times = torch.zeros(20)
    for seed in range(1000):
        times[numbers(split_validation(images, 0.3, seed)[1])] += 1
    assert ((times - 300).abs() < 75).all()  # 5 standard deviations


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 0.001])
def test_validation_share_that_holds_nothing_out(share):
    with pytest.raises(InputError, match="data.validation"):
        split_validation(numbered_set([10, 10]), share, 0)


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(2, 9), st.integers(2, 9)), seed=st.integers(0))
def test_channel_statistics_are_numpys(shape, seed):
    images = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    mean, std = channel_statistics(torch.from_numpy(images))
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)), rtol=1e-12)


def test_channel_statistics_of_more_images_than_are_counted_at_once():
    # 10,000 bright images and one darker pixel: a float32 sum loses it altogether.
    images = torch.full((10_000, 3, 4, 4), 255, dtype=torch.uint8)
    images[9_999, :, 3, 3] = 254
    mean, std = channel_statistics(images)
    count = 160_000
    assert mean == pytest.approx([1 - 1 / (255 * count)] * 3, rel=1e-15)
    assert std == pytest.approx([(count - 1) ** 0.5 / (255 * count)] * 3, rel=1e-14)


def test_images_that_are_wholly_transparent_are_called_so(tmp_path):
    for part, name in itertools.product(("train", "test"), ("cats", "dogs")):
        (folder := tmp_path / part / name).mkdir(parents=True)
        Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(folder / "0.png")
    with pytest.raises(InputError) as error:
        channel_statistics(imagefolder(str(tmp_path), size=8).train.images)
    assert str(error.value) == (
        "data.images: all training images are one plain colour, RGB 0, 0, 0; "
        "if they are transparent, save them on a background, as transparency is dropped"
    )


def test_a_constant_channel_cannot_be_normalised():
    images = torch.randint(256, (4, 3, 4, 4), dtype=torch.uint8)
    images[:, 1] = 7
    with pytest.raises(InputError, match="data.std: a colour channel is the same"):
        channel_statistics(images)
