"""What a term of the objective sees and returns.

S_i heads of peer i, B batch, C classes, D_i embedding width of peer i, P pairs of embeddings (contrastive.py).
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class LossInput(NamedTuple):
    """All that a term may look at."""

    embeddings: Sequence[Sequence[Tensor]]  # [i][k] (B, D_i)
    logits: Sequence[Sequence[Tensor]]  # [i][k] (B, C), the last k is the network's own head
    ensembles: Sequence[Tensor] | None  # [i] (B, C), the aggregator's, when there is one
    labels: Tensor  # (B,)
    pair_weights: Tensor | None  # (P, B), layer-matching weights; None: all 1


class Term(Protocol):
    """A part of the objective; as a module it owns its parameters."""

    def __call__(self, batch: LossInput) -> dict[str, Tensor]:
        """Weighted scalar losses by name."""
