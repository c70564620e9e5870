"""The weight network: how much each pair of layers should match, for each sample (L-MCL, TPAMI 2023, section 3.5)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class WeightNetwork(nn.Module):
    """lambda_ikjz(r) = sigmoid(u_ik,r . u_jz,r) with u_ik = normalise(Linear(D_i, width)(e_ik)).

    widths: D_i of each peer. heads: S_i of each peer. width: of the compared vectors.
    """

    def __init__(self, widths: Sequence[int], heads: Sequence[int], width: Annotated[int, ">= 1"] = 128):
        super().__init__()
        self.heads = tuple(heads)
        self.projections = nn.ModuleList(
            nn.ModuleList(nn.Linear(peer_width, width) for _ in range(count))
            for peer_width, count in zip(widths, heads, strict=True)
        )

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
        first, second = _pairs(self.heads, u_ABd.device)
        return torch.sigmoid(torch.einsum("abd,cbd->acb", u_ABd, u_ABd)[first, second])


@lru_cache(maxsize=64)  # once for a cohort: an index made on the host would make a CUDA device wait at every step
@torch.inference_mode(False)  # an index made in inference mode could not be kept for a backward later
def _pairs(heads: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    peer_of = torch.repeat_interleave(torch.arange(len(heads)), torch.tensor(heads))
    grouped = [
        torch.cartesian_prod((peer_of == i).nonzero()[:, 0], (peer_of == j).nonzero()[:, 0])
        for i in range(len(heads))
        for j in range(len(heads))
        if j != i
    ]
    index = torch.cat(grouped).to(device)
    return index[:, 0], index[:, 1]
