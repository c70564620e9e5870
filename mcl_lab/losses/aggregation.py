"""The aggregator: each peer's heads combined, sample by sample, into the peer's ensemble (L-MCL, section 3.4).

S_i heads of peer i, D_i embedding width, B batch, C classes.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mcl_lab.losses.term import LossInput, Term, total

OFFERED = {"loss.*": ["Aggregator"]}  # to configs, by place


class Aggregator(Term):
    """g_i = sum_k a_i[:, k] l_ik with a_i = softmax(Linear(D_i, S_i)(relu(Linear(S_i D_i, D_i)(cat_k e_ik)))).

    As a term: the weighted cross-entropy of the ensembles, sum_i CE(g_i, y). Nothing in it is detached.
    """

    name = "ensemble_classification"

    def __init__(self, widths: Sequence[int], heads: Sequence[int], weight: Annotated[float, ">= 0"] = 1.0):
        super().__init__(weight)
        self.attention = nn.ModuleList(
            nn.Sequential(nn.Linear(count * width, width), nn.ReLU(inplace=True), nn.Linear(width, count))
            for width, count in zip(widths, heads, strict=True)
        )

    def combine(self, embeddings: Sequence[Sequence[Tensor]], logits: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """`embeddings[i][k]` (B, D_i) and `logits[i][k]` (B, C) to each peer's ensemble logits (B, C)."""
        ensembles = []
        for attention, peer_embeddings, peer_logits in zip(self.attention, embeddings, logits, strict=True):
            share_BS = torch.softmax(attention(torch.cat(list(peer_embeddings), dim=1)), dim=1)
            ensembles.append(torch.einsum("bs,sbc->bc", share_BS, torch.stack(list(peer_logits))))
        return ensembles

    def loss(self, batch: LossInput) -> Tensor:
        assert batch.ensembles is not None, "the aggregator makes them"
        return total(cross_entropy(ensemble, batch.labels) for ensemble in batch.ensembles)
