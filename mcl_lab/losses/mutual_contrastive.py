"""Mutual contrastive learning as a term: projection heads and the weighted sum of the four losses."""

from collections.abc import Sequence
from typing import Annotated, cast

from torch import Tensor, nn
from torch.nn.functional import normalize

from mcl_lab.losses.contrastive import mutual_contrastive
from mcl_lab.losses.term import LossInput

OFFERED = {"loss.*": ["MutualContrastiveLearning", "LastLayerContrastiveLearning"]}  # to configs, by place


class MutualContrastiveLearning(nn.Module):
    """vcl, soft_vcl, icl and soft_icl of `contrastive.mutual_contrastive`, each times its weight; weight 0: not computed.
    All layers of all peers take part (L-MCL, TPAMI 2023).

    widths: D_i of each peer. heads: S_i of each peer. width: d of the projected embeddings
    z = h / |h|, h = Linear(d, d)(relu(Linear(D_i, d)(e))), one projection head for each peer and stage.
    """

    min_peers = 2

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
        self.uses_pair_weights = bool(self.weights)  # then the meta event trains the weights on this term
        self.temperature = temperature
        self.kd_temperature = kd_temperature
        projections = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.Linear(peer_width, width), nn.ReLU(inplace=True), nn.Linear(width, width))
                for _ in range(count)
            )
            for peer_width, count in zip(widths, heads, strict=True)
        )
        self.projections = cast(Sequence[Sequence[nn.Module]], projections)  # a ModuleList does not say of what

    def forward(self, batch: LossInput) -> dict[str, Tensor]:
        if not self.weights:
            return {}
        projected = [
            [normalize(projection(embedding), dim=1) for projection, embedding in zip(*peer, strict=True)]
            for peer in zip(self.projections, self.matched(batch.embeddings), strict=True)
        ]
        losses = mutual_contrastive(
            projected,
            batch.labels,
            batch.pair_weights if self.uses_pair_weights else None,
            temperature=self.temperature,
            kd_temperature=self.kd_temperature,
            terms=tuple(self.weights),
        )
        return {name: weight * getattr(losses, name) for name, weight in self.weights.items()}

    def matched(self, embeddings: Sequence[Sequence[Tensor]]) -> Sequence[Sequence[Tensor]]:
        """Those of `embeddings[i][k]` that are compared with those of other peers: all."""
        return embeddings


class LastLayerContrastiveLearning(MutualContrastiveLearning):
    """The same on each network's own embedding alone, as in MCL (AAAI 2022), with the weights as published.

    There every loss counts once: vcl for each network, the others for each network and each other one. The sums of
    `contrastive.mutual_contrastive` run over ordered pairs of embeddings and hold both directions of each, so they count
    the vcl of one of N networks 2 (N - 1) times and all else twice.
    """

    def __init__(
        self,
        widths: Sequence[int],
        vcl: Annotated[float, ">= 0"] = 0.1,
        soft_vcl: Annotated[float, ">= 0"] = 1.0,
        icl: Annotated[float, ">= 0"] = 0.1,
        soft_icl: Annotated[float, ">= 0"] = 1.0,
        temperature: Annotated[float, "> 0"] = 0.1,
        kd_temperature: Annotated[float, "> 0"] = 3.0,
        width: Annotated[int, ">= 1"] = 128,
    ):
        super().__init__(
            widths,
            heads=[1] * len(widths),
            vcl=vcl / (2 * (len(widths) - 1)),
            soft_vcl=soft_vcl / 2,
            icl=icl / 2,
            soft_icl=soft_icl / 2,
            temperature=temperature,
            kd_temperature=kd_temperature,
            width=width,
        )
        self.uses_pair_weights = False  # there are no layers to match

    def matched(self, embeddings: Sequence[Sequence[Tensor]]) -> Sequence[Sequence[Tensor]]:
        return [stages[-1:] for stages in embeddings]
