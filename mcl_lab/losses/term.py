"""A term of the objective: a module that maps a LossInput to weighted scalar losses by name, the same names at every step. A loss
that has no part in a step is 0 there.

S_i heads of peer i, B batch, C classes, D_i embedding width of peer i, P pairs of embeddings (contrastive.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor, nn


class LossInput(NamedTuple):
    """All that a term may look at."""

    embeddings: Sequence[Sequence[Tensor]]  # [i][k] (B, D_i)
    logits: Sequence[Sequence[Tensor]]  # [i][k] (B, C), the last k is the network's own head
    ensembles: Sequence[Tensor] | None  # [i] (B, C), the aggregator's, when there is one
    labels: Tensor  # (B,)
    pair_weights: Tensor | None  # (P, B), layer-matching weights; None: all 1


class Term(nn.Module, ABC):
    """A term of one loss, `loss(batch)`, which is put out as `name` times `weight`; of weight 0 it is not computed."""

    name: ClassVar[str]

    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight

    def forward(self, batch: LossInput) -> dict[str, Tensor]:
        return {self.name: self.weight * self.loss(batch)} if self.weight else {}

    @abstractmethod
    def loss(self, batch: LossInput) -> Tensor:
        """The scalar that is weighted."""


def total(losses: Iterable[Tensor]) -> Tensor:
    """The sum of one or more."""
    return sum(losses)  # type: ignore[return-value]  # 0 only of none
