"""Mutual contrastive learning as a term: projection heads and the weighted sum of the four losses."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor, nn
from torch.nn.functional import normalize

from mcl_lab.losses.contrastive import mutual_contrastive
from mcl_lab.losses.term import LossInput


class MutualContrastiveLearning(nn.Module):
    """vcl, soft_vcl, icl and soft_icl of `contrastive.mutual_contrastive`, each times its weight; weight 0: not computed.

    widths: D_i of each peer. heads: S_i of each peer. width: d of the projected embeddings
    z = h / |h|, h = Linear(d, d)(relu(Linear(D_i, d)(e))), one projection head for each peer and stage.
    """

    min_peers = 2
    uses_pair_weights = True  # so the meta event trains the weights on this term

    def __init__(
        self,
        widths: Sequence[int],
        heads: Sequence[int],
        vcl: Annotated[float, ">= 0"] = 0.1,
        soft_vcl: Annotated[float, ">= 0"] = 1.0,
        icl: Annotated[float, ">= 0"] = 0.1,
        soft_icl: Annotated[float, ">= 0"] = 1.0,
        temperature: Annotated[float, "> 0"] = 0.1,
        kd_temperature: Annotated[float, "> 0"] = 3.0,
        width: Annotated[int, ">= 1"] = 128,
    ):
        super().__init__()
        weights = {"vcl": vcl, "soft_vcl": soft_vcl, "icl": icl, "soft_icl": soft_icl}
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.temperature = temperature
        self.kd_temperature = kd_temperature
        self.projections = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.Linear(peer_width, width), nn.ReLU(inplace=True), nn.Linear(width, width))
                for _ in range(count)
            )
            for peer_width, count in zip(widths, heads, strict=True)
        )

    def forward(self, batch: LossInput) -> dict[str, Tensor]:
        if not self.weights:
            return {}
        projected = [
            [normalize(projection(embedding), dim=1) for projection, embedding in zip(*peer, strict=True)]
            for peer in zip(self.projections, batch.embeddings, strict=True)
        ]
        losses = mutual_contrastive(
            projected,
            batch.labels,
            batch.pair_weights,
            temperature=self.temperature,
            kd_temperature=self.kd_temperature,
            terms=tuple(self.weights),
        )
        return {name: weight * getattr(losses, name) for name, weight in self.weights.items()}
