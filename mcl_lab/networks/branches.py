"""Auxiliary branches: for each inner stage, the rest of the network once more (L-MCL, TPAMI 2023, section 3.3)."""

import copy

from torch import Tensor, nn

from mcl_lab.networks.staged import StagedNetwork, pool


class Branch(nn.Module):
    """Refinement and classifier on the tap after stage k: fresh copies of stages k+1 onwards, neck and classifier.

    Every stage of a peer therefore ends in an embedding of the same width D.
    """

    def __init__(self, network: StagedNetwork, k: int):
        super().__init__()
        self.stages = nn.Sequential(*copy.deepcopy(network.stages[k + 1 :]))
        self.neck = copy.deepcopy(network.neck)
        self.classifier = nn.Linear(network.width, network.num_classes)
        for module in self.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        network.initialise(self)

    def forward(self, tap: Tensor) -> tuple[Tensor, Tensor]:
        """The feature map after stage k to embedding (B, D) and logits (B, C); gradients flow back into the tap."""
        embedding = pool(self.neck(self.stages(tap)))
        return embedding, self.classifier(embedding)
