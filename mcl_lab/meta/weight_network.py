"""The weight network: how much each pair of layers should match, for each sample (L-MCL, TPAMI 2023, section 3.5)."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

OFFERED = {"loss.weight_network": ["WeightNetwork"]}  # to configs, by place


class WeightNetwork(nn.Module):
    """lambda_ikjz(r) = sigmoid(u_ik,r . u_jz,r) with u_ik = normalise(Linear(D_i, width)(e_ik)).

    widths: D_i of each peer. heads: S_i of each peer. width: of the compared vectors.
    """

    def __init__(self, widths: Sequence[int], heads: Sequence[int], width: Annotated[int, ">= 1"] = 128):
        super().__init__()
        self.heads = tuple(heads)
        projections = nn.ModuleList(
            nn.ModuleList(nn.Linear(peer_width, width) for _ in range(count))
            for peer_width, count in zip(widths, heads, strict=True)
        )
        self.projections = cast(Sequence[Sequence[nn.Linear]], projections)  # a ModuleList does not say of what

    def forward(self, embeddings: Sequence[Sequence[Tensor]]) -> Tensor:
        """`embeddings[i][k]` (B, D_i) to a weight in (0, 1) for each pair and sample, (P, B), P = sum_i sum_j!=i S_i S_j,
        in the order for i, for j != i, for k, for z."""
        u_ABd = torch.stack(
            [
                normalize(projection(embedding), dim=1)
                for peer in zip(self.projections, embeddings, strict=True)
                for projection, embedding in zip(*peer, strict=True)
            ]
        )
        similarity_AAB = torch.einsum("abd,cbd->acb", u_ABd, u_ABd)
        starts = list(accumulate(self.heads, initial=0))
        peers = [slice(start, end) for start, end in pairwise(starts)]
        of_pairs = [similarity_AAB[i, j].flatten(0, 1) for i in peers for j in peers if i is not j]
        return torch.sigmoid(torch.cat(of_pairs))
