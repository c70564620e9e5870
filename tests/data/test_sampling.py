"""The properties of shuffled and class-balanced batches, whatever the sizes."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl_lab.data.sampling import check_class_balance, class_balanced_batches, shuffled_batches
from mcl_lab.errors import InputError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def labels_of(class_sizes, seed=0):
    labels = torch.arange(len(class_sizes)).repeat_interleave(torch.tensor(class_sizes))
    return labels[torch.randperm(len(labels), generator=seeded(seed))]


@settings(max_examples=100, deadline=None)
@given(num_images=st.integers(2, 300), batch_size=st.integers(2, 50), seed=st.integers(0, 2**32))
def test_shuffled_batches_hold_every_image_once(num_images, batch_size, seed):
    batches = shuffled_batches(num_images, batch_size, seeded(seed))
    sizes = [len(batch) for batch in batches]
    left_out = 1 if num_images % batch_size == 1 else 0
    assert all(size == batch_size for size in sizes[:-1])
    assert 2 <= sizes[-1] <= batch_size
    images = torch.cat(batches).tolist()
    assert len(images) == len(set(images)) == num_images - left_out
    assert set(images) <= set(range(num_images))


def test_shuffled_batches_are_shuffled_evenly():
    where = torch.zeros(4, 4)
    generator = seeded()
    for _ in range(4000):
        where[torch.arange(4), torch.cat(shuffled_batches(4, 2, generator))] += 1
    assert ((where - 1000).abs() < 150).all()  # 5 standard deviations


@settings(max_examples=200, deadline=None)
@given(
    class_sizes=st.lists(st.integers(2, 30), min_size=1, max_size=25),
    batch_size=st.integers(2, 64),
    seed=st.integers(0, 2**32),
)
def test_class_balanced_batches_of_any_classes_and_size(class_sizes, batch_size, seed):
    labels = labels_of(class_sizes, seed)
    batches = class_balanced_batches(labels, batch_size, seeded(seed))
    assert batches.dtype == torch.int64
    assert batches.shape == (len(labels) // batch_size, batch_size)

    num_drawn = min(len(class_sizes), batch_size // 2)
    for batch in batches.tolist():
        batch_labels = labels[batch].tolist()
        runs = [label for place, label in enumerate(batch_labels) if place == 0 or label != batch_labels[place - 1]]
        assert len(runs) == len(set(runs)) == num_drawn  # adjacent
        places = Counter(batch_labels)
        assert max(places.values()) - min(places.values()) <= 1  # even
        assert min(places.values()) >= 2  # a positive for every anchor
        for label, count in places.items():
            times = Counter(image for image in batch if labels[image] == label)
            assert len(times) == min(count, class_sizes[label])  # distinct, or every one before any repeats
            assert max(times.values()) - min(times.values()) <= (0 if count <= class_sizes[label] else 1)


def test_every_anchor_has_another_image_as_positive():
    batches = class_balanced_batches(labels_of([2] * 5 + [40]), 16, seeded())
    labels = labels_of([2] * 5 + [40])
    for batch in batches:
        for image in batch:
            same = batch[labels[batch] == labels[image]]
            assert (same != image).any()


def test_papers_setting():
    labels = labels_of([500] * 100)
    batches = class_balanced_batches(labels, 128, seeded())
    assert batches.shape == (390, 128)
    pairs = labels[batches].view(390, 64, 2)
    assert torch.equal(pairs[..., 0], pairs[..., 1])
    assert all(len(set(classes)) == 64 for classes in pairs[..., 0].tolist())
    assert (batches.view(390, 64, 2).diff(dim=2) != 0).all()


def test_cifar10_gets_all_classes_in_each_batch():
    labels = labels_of([5000] * 10)
    for batch in class_balanced_batches(labels, 128, seeded())[:20]:
        assert sorted(labels[batch].bincount().tolist()) == [12] * 2 + [13] * 8


def test_classes_and_subsets_of_their_images_are_equally_likely():
    labels, generator = labels_of([5, 5, 5]), seeded()
    classes, subsets = Counter(), {3: Counter(), 2: Counter()}
    for _ in range(1500):
        for batch in class_balanced_batches(labels, 5, generator):  # 3 batches of 2 classes, with 3 and 2 places
            for group in (batch[:3], batch[3:]):
                classes[int(labels[group[0]])] += 1
                subsets[len(group)][tuple(sorted(group.tolist()))] += 1
    assert all(abs(count - 3000) < 160 for count in classes.values())  # 5 standard deviations
    for counts in subsets.values():
        assert len(counts) == 3 * 10
        assert all(abs(count - 150) < 62 for count in counts.values())  # 5 standard deviations


def test_a_class_without_images_is_never_drawn():
    labels = torch.tensor([0, 0, 0, 3, 3, 3, 7, 7])
    assert set(labels[class_balanced_batches(labels, 6, seeded())].unique().tolist()) == {0, 3, 7}


def test_batches_follow_the_generator():
    labels = labels_of([50] * 10)
    assert torch.equal(class_balanced_batches(labels, 16, seeded(5)), class_balanced_batches(labels, 16, seeded(5)))
    assert not torch.equal(class_balanced_batches(labels, 16, seeded(5)), class_balanced_batches(labels, 16, seeded(6)))


def test_check_accepts_the_papers_setting():
    assert check_class_balance(labels_of([500] * 100), tuple(map(str, range(100))), 128) == []


def test_check_warns_of_classes_smaller_than_their_places():
    [warning] = check_class_balance(labels_of([3, 20, 4, 20]), ("ant", "bee", "cat", "dog"), 16)
    assert "4 images of a class" in warning
    assert "ant (3)" in warning
    assert "cat" not in warning and "bee" not in warning


@pytest.mark.parametrize("batch_size", [0, 1, 41])
def test_check_refuses_a_batch_that_cannot_be_made(batch_size):
    with pytest.raises(InputError, match="data.batch_size: must be from 2 to 40") as error:
        check_class_balance(labels_of([20, 20]), ("a", "b"), batch_size)
    assert error.value.key == "data.batch_size"


@pytest.mark.parametrize(("class_sizes", "found"), [([9, 1, 9], "one image"), ([9, 0, 9], "no image")])
def test_check_names_a_class_without_a_positive(class_sizes, found):
    with pytest.raises(InputError, match=f"data.images: class bee has {found}"):
        check_class_balance(labels_of(class_sizes), ("ant", "bee", "cat"), 4)
