"""What a term of the objective sees. A term is a module that maps it to weighted scalar losses by name, the same names at every
step: one that has no part in a step is 0 there.

S_i heads of peer i, B batch, C classes, D_i embedding width of peer i, P pairs of embeddings (contrastive.py).
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class LossInput(NamedTuple):
    """All that a term may look at."""

    embeddings: Sequence[Sequence[Tensor]]  # [i][k] (B, D_i)
    logits: Sequence[Sequence[Tensor]]  # [i][k] (B, C), the last k is the network's own head
    ensembles: Sequence[Tensor] | None  # [i] (B, C), the aggregator's, when there is one
    labels: Tensor  # (B,)
    pair_weights: Tensor | None  # (P, B), layer-matching weights; None: all 1
