"""Which images make up the batches of an epoch: shuffled plainly, or balanced over the classes.

Dimensions: N images, C classes, E batches an epoch, B images a batch, P classes in a batch, M places of a class.
"""

import torch
from torch import Tensor

from mcl_lab.errors import InputError


def shuffled_batches(num_images: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Every image once, in random order: indices (B,) int64 of each batch, the last one smaller if need be.

    A last batch of a single image is left out, as batch normalisation needs two.
    """
    batches = torch.randperm(num_images, generator=generator).split(batch_size)
    return [batch for batch in batches if len(batch) > 1]


def class_balanced_batches(labels: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Indices (E, B) int64 of E = floor(N / B) independent draws of a batch; labels (N,) int64 on the CPU.

    P = min(C, B // 2) classes are drawn without replacement and the B places dealt over them as evenly as possible;
    the images of a class are adjacent and distinct. A class with fewer images than places uses every one before it
    repeats any. With B = 128 and C = 100, the paper's setting, these are 64 classes with two images each.
    """
    num_batches = len(labels) // batch_size
    _, label_of, class_sizes = labels.unique(return_inverse=True, return_counts=True)
    num_drawn = min(len(class_sizes), batch_size // 2)
    drawn = torch.rand(num_batches, len(class_sizes), generator=generator).argsort(1)[:, :num_drawn]  # (E, P)

    # The classes drawn first take one place more where B is no multiple of P: their order is random.
    places = torch.full((num_drawn,), batch_size // num_drawn)
    places[: batch_size % num_drawn] += 1
    picks = _distinct(class_sizes[drawn], places, generator)  # (E, P, M) ranks within the class

    by_class = label_of.argsort(stable=True)
    first = class_sizes.cumsum(0) - class_sizes
    images = by_class[first[drawn].unsqueeze(2) + picks]  # (E, P, M)
    return images[:, torch.arange(picks.shape[2]) < places.unsqueeze(1)]  # drops the place too many of some classes


def check_class_balance(labels: Tensor, classes: tuple[str, ...], batch_size: int) -> list[str]:
    """Whether class-balanced batches can be made of labels (N,), and warnings of what is odd about them.

    Raises InputError `data.batch_size` when it is below 2 or there is no whole batch, `data.images` when a class has
    fewer than two images.
    """
    if not 2 <= batch_size <= len(labels):
        raise InputError(
            "data.batch_size", f"must be from 2 to {len(labels)}, the number of training images, it is {batch_size}"
        )
    sizes = labels.bincount(minlength=len(classes)).tolist()
    for name, size in zip(classes, sizes, strict=True):
        if size < 2:
            found = "one image" if size else "no image"
            raise InputError("data.images", f"class {name} has {found} to train on, class-balanced batches need two")
    most_places = -(-batch_size // min(len(classes), batch_size // 2))
    small = [f"{name} ({size})" for name, size in zip(classes, sizes, strict=True) if size < most_places]
    if not small:
        return []
    shown = ", ".join(small[:5]) + (", ..." if len(small) > 5 else "")
    return [f"a batch takes up to {most_places} images of a class; it repeats images where there are fewer: {shown}"]


def _distinct(sizes: Tensor, places: Tensor, generator: torch.Generator) -> Tensor:
    """Ranks (E, P, M) below sizes (E, P), of which the first places (P,) of a class are as distinct as can be.

    Full rounds through a class smaller than its places, and a random subset for the rest by Floyd's algorithm (Bentley
    and Floyd, "A sample of brilliance", 1987), for all draws at once.
    """
    most_places = int(places.max())
    subset = places % sizes  # (E, P), how many are drawn; the places after them go round the whole class
    picks = torch.empty(*sizes.shape, most_places, dtype=torch.int64)
    for place in range(most_places):
        highest = sizes - subset + place
        uniform = torch.rand(sizes.shape, generator=generator, dtype=torch.float64)
        candidate = (uniform * (highest + 1)).long()
        taken = (picks[..., :place] == candidate.unsqueeze(2)).any(2)
        in_subset = torch.where(taken, highest, candidate)
        picks[..., place] = torch.where(place < subset, in_subset, (place - subset) % sizes)
    return picks
