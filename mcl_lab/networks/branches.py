"""Auxiliary branches: for each inner stage, the rest of the network once more (L-MCL, TPAMI 2023, section 3.3)."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mcl_lab.networks.staged import StagedNetwork, pool


class Branch(nn.Module):
    """Refinement and classifier on the tap after stage k: fresh copies of stages k+1 onwards, neck and classifier.

    Every stage of a peer therefore ends in an embedding of the same width D. What the stages share with one another or with
    the neck, their copies share, too. What is frozen keeps the network's values and stays frozen.
    """

    def __init__(self, network: StagedNetwork, k: int):
        super().__init__()
        self.stages, self.neck = copy.deepcopy((nn.Sequential(*network.stages[k + 1 :]), network.neck))
        self.classifier = nn.Linear(network.width, network.num_classes)
        frozen = [(tensor, tensor.clone()) for tensor in _frozen(self)]
        for module in self.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        network.initialise(self)
        with torch.no_grad():
            for tensor, value in frozen:
                tensor.copy_(value)

    def forward(self, tap: Tensor) -> tuple[Tensor, Tensor]:
        """The feature map after stage k to embedding (B, D) and logits (B, C); gradients flow back into the tap."""
        embedding = pool(self.neck(self.stages(tap)))
        return embedding, self.classifier(embedding)


def _frozen(branch: nn.Module) -> Iterator[Tensor]:
    """Parameters that do not require gradient, and the buffers of modules with no other parameters: BatchNorm's statistics
    belong to the weights beside them."""
    yield from (parameter for parameter in branch.parameters() if not parameter.requires_grad)
    for module in branch.modules():
        trained = [parameter.requires_grad for parameter in module.parameters()]
        if trained and not any(trained):
            yield from module.buffers()
