"""Cross-entropy of every head."""

from typing import Annotated

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mcl_lab.losses.term import LossInput

OFFERED = {"loss.*": ["Classification"]}  # to configs, by place


class Classification(nn.Module):
    """sum_i sum_k CE(l_ik, y), over every head of every peer."""

    def __init__(self, weight: Annotated[float, ">= 0"] = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, batch: LossInput) -> dict[str, Tensor]:
        if self.weight == 0:
            return {}
        return {"classification": self.weight * classification(batch.logits, batch.labels)}


def classification(logits, labels: Tensor) -> Tensor:
    """Logits `[i][k]` (B, C) and labels (B,) to the scalar sum of the heads' mean cross-entropies."""
    return sum(cross_entropy(scores, labels) for stages in logits for scores in stages)
