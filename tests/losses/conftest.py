"""The authors' numbers, as the tensors and names of this package."""

from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden_values():
    values = {}
    for name in ("contrastive", "weight_network", "step"):
        with numpy.load(GOLDEN / f"{name}.npz") as file:
            values |= {key: torch.from_numpy(file[key]) for key in file.files}
    return values


@pytest.fixture
def golden(golden_values):
    """`values` by their names in the files; `embeddings[i][k]` (16, 64) and `logits[i][k]` (16, 100), which take
    gradients; `labels`; `sub(prefix)`: the values of one module, the prefix taken off."""
    values = golden_values

    def leaves(kind):
        return [[values[f"{kind}.{i}.{k}"].clone().requires_grad_() for k in range(3)] for i in range(2)]

    return SimpleNamespace(
        values=values,
        embeddings=leaves("emb"),
        logits=leaves("logits"),
        labels=values["labels"],
        sub=lambda prefix: {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)},
    )


@pytest.fixture
def assert_agrees():
    """Largest difference at most 1e-10 of the largest value."""

    def check(ours, theirs, name):
        assert ours.dtype == theirs.dtype == torch.float64, name
        assert ours.shape == theirs.shape, name
        assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max(), name

    return check
