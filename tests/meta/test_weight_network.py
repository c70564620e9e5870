"""The weight network: the authors' numbers, the order of pairs, and values in (0, 1)."""

from pathlib import Path

import numpy
import pytest
import torch
from torch.nn.functional import normalize

from mcl_lab.meta.weight_network import WeightNetwork

GOLDEN = Path(__file__).parents[1] / "golden"
B = 6


def make(widths, heads):
    torch.manual_seed(0)
    network = WeightNetwork(widths, heads, width=5).double()
    peers = zip(widths, heads, strict=True)
    embeddings = [[torch.rand(B, width, dtype=torch.float64) for _ in range(count)] for width, count in peers]
    return network, embeddings


def test_authors_numbers():
    with numpy.load(GOLDEN / "contrastive.npz") as inputs, numpy.load(GOLDEN / "weight_network.npz") as file:
        embeddings = [[torch.from_numpy(inputs[f"emb.{i}.{k}"]) for k in range(3)] for i in range(2)]
        prefix = "lwn.proj."
        values = {name.removeprefix(prefix): torch.from_numpy(file[name]) for name in file if name.startswith(prefix)}
        expected = torch.from_numpy(file["lwn_out"])
    network = WeightNetwork([64, 64], [3, 3]).double()
    network.projections.load_state_dict(values)
    assert (network(embeddings) - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("heads", [(2, 1), (1, 3, 2), (2, 2, 1, 3)])
def test_pairs_are_in_the_order_of_the_contrastive_losses(heads):
    network, embeddings = make(widths=[4, 7, 3, 5][: len(heads)], heads=heads)
    weights = network(embeddings)
    compared = [
        [
            normalize(e @ projection.weight.T + projection.bias)
            for projection, e in zip(projections, stages, strict=True)
        ]
        for projections, stages in zip(network.projections, embeddings, strict=True)
    ]
    expected = [
        torch.sigmoid((compared[i][k] * compared[j][z]).sum(dim=1))
        for i in range(len(heads))
        for j in range(len(heads))
        if j != i
        for k in range(heads[i])
        for z in range(heads[j])
    ]
    torch.testing.assert_close(weights, torch.stack(expected), rtol=1e-12, atol=0)
    assert weights.shape == (sum(heads) ** 2 - sum(count**2 for count in heads), B)
    assert ((weights > 0) & (weights < 1)).all()
