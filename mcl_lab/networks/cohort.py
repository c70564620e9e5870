"""The cohort: the peers that learn together.

N peers, S_i stages of peer i, B batch, C classes, D_i embedding width of peer i.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mcl_lab.networks.branches import Branch
from mcl_lab.networks.staged import StagedNetwork


class CohortOutput(NamedTuple):
    """`embeddings[i][k]` (B, D_i) and `logits[i][k]` (B, C) of peer i, stage k; the last k is the network's own head."""

    embeddings: list[list[Tensor]]
    logits: list[list[Tensor]]


class Peer(nn.Module):
    """A network with its auxiliary branches, one for each stage but the last, or with none."""

    def __init__(self, network: StagedNetwork, *, branches: bool):
        super().__init__()
        self.network = network
        if branches:
            network.spare_taps()
        inner_stages = len(network.stages) - 1 if branches else 0
        self.branches = nn.ModuleList(Branch(network, k) for k in range(inner_stages))

    @property
    def heads(self) -> int:
        """S_i, the number of heads: one for each branch and the network's own."""
        return len(self.branches) + 1

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        taps = self.network.taps(images)
        own = self.network.embed(taps[-1])
        embeddings, logits = [], []
        for branch, tap in zip(self.branches, taps, strict=False):
            embedding, scores = branch(tap)
            embeddings.append(embedding)
            logits.append(scores)
        return [*embeddings, own], [*logits, self.network.classifier(own)]


class Cohort(nn.Module):
    """Peers by name; all of them see the same images.

    branches: whether auxiliary branches are built.
    autocast: dtype the networks compute in (torch.bfloat16), or None for that of their parameters. Outputs of an autocast
    forward are float32, so that losses are computed in float32 whatever the networks do.
    """

    def __init__(self, networks: Mapping[str, StagedNetwork], *, branches: bool, autocast: torch.dtype | None = None):
        super().__init__()
        peers = nn.ModuleDict({name: Peer(network, branches=branches) for name, network in networks.items()})
        self.peers = cast(Mapping[str, Peer], peers)  # a ModuleDict does not say of what
        self.autocast = autocast

    @property
    def widths(self) -> list[int]:
        """D_i of each peer."""
        return [peer.network.width for peer in self.peers.values()]

    @property
    def heads(self) -> list[int]:
        """S_i of each peer."""
        return [peer.heads for peer in self.peers.values()]

    def forward(self, images: Tensor) -> CohortOutput:
        """Images (B, 3, H, W) to embeddings and logits of every peer and stage."""
        if self.autocast is None:
            return self._forward(images)
        with torch.autocast(images.device.type, self.autocast):
            output = self._forward(images)
        return CohortOutput(*([[_at_least_float32(x) for x in stages] for stages in peers] for peers in output))

    def _forward(self, images: Tensor) -> CohortOutput:
        outputs = [peer(images) for peer in self.peers.values()]
        return CohortOutput([embeddings for embeddings, _ in outputs], [logits for _, logits in outputs])


def _at_least_float32(value: Tensor) -> Tensor:
    """Autocast leaves float64 as it is."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
