"""The losses of a meta event's virtual steps (L-MCL, TPAMI 2023, section 3.5).

B batch, C classes.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from mcl_lab.losses.classification import classification
from mcl_lab.losses.term import LossInput, total


class VirtualLosses(nn.Module):
    """What the virtual steps of a meta event change, the cohort and the terms' own parameters, and what they descend on."""

    def __init__(self, cohort: nn.Module, weighted_terms: Iterable[nn.Module]):
        super().__init__()
        self.cohort = cohort
        self.weighted_terms = nn.ModuleList(weighted_terms)

    def forward(self, images: Tensor, labels: Tensor, weight_network: nn.Module | None) -> Tensor:
        """The terms under the weight network's weights; without one the heads' cross-entropy, which judges the weights."""
        embeddings, logits = self.cohort(images)
        if weight_network is None:
            return classification(logits, labels)
        batch = LossInput(embeddings, logits, None, labels, weight_network(embeddings))
        return total(loss for term in self.weighted_terms for loss in term(batch).values())
