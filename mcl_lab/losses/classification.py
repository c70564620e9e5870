"""Cross-entropy of every head."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor
from torch.nn.functional import cross_entropy

from mcl_lab.losses.term import LossInput, Term, total

OFFERED = {"loss.*": ["Classification"]}  # to configs, by place


class Classification(Term):
    """sum_i sum_k CE(l_ik, y), over every head of every peer."""

    name = "classification"

    def __init__(self, weight: Annotated[float, ">= 0"] = 1.0):
        super().__init__(weight)

    def loss(self, batch: LossInput) -> Tensor:
        return classification(batch.logits, batch.labels)


def classification(logits: Sequence[Sequence[Tensor]], labels: Tensor) -> Tensor:
    """Logits `[i][k]` (B, C) and labels (B,) to the scalar sum of the heads' mean cross-entropies."""
    return total(cross_entropy(scores, labels) for stages in logits for scores in stages)
