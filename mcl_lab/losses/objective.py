"""The objective: named, weighted terms, their own parameters, and the ensembles some of them need.

N peers, S_i heads of peer i, B batch, C classes, D_i embedding width of peer i, P pairs of embeddings (contrastive.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from mcl_lab.errors import InputError
from mcl_lab.losses.aggregation import Aggregator
from mcl_lab.losses.term import LossInput


class CohortOutput(Protocol):
    @property
    def embeddings(self) -> Sequence[Sequence[Tensor]]: ...

    @property
    def logits(self) -> Sequence[Sequence[Tensor]]: ...


class Objective(nn.Module):
    """The sum of its terms.

    terms: by name; their parameters, projection heads say, are trained with the peers.
    aggregator: combines each peer's heads into its ensemble, a teacher and a classifier of its own.
    pair_weights: embeddings to layer-matching weights (P, B), without gradient; None: all 1.
    """

    def __init__(
        self,
        terms: Mapping[str, nn.Module],
        *,
        aggregator: Aggregator | None = None,
        pair_weights: Callable[[Sequence[Sequence[Tensor]]], Tensor] | None = None,
    ):
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.aggregator = aggregator
        self.pair_weights = pair_weights

    def forward(self, output: CohortOutput, labels: Tensor) -> dict[str, Tensor]:
        """What the cohort puts out and labels (B,) to weighted scalar terms, whose sum is the loss.

        Raises InputError("loss.TERM") for a term that puts out anything else than scalar tensors by name, or a name that a term
        before it has.
        """
        weights = self.pair_weights(output.embeddings) if self.pair_weights else None
        batch = LossInput(output.embeddings, output.logits, self.ensembles(output), labels, weights)
        losses = self.aggregator(batch) if self.aggregator else {}
        for name, term in self.terms.items():
            added = term(batch)
            if not isinstance(added, Mapping):
                raise InputError(f"loss.{name}", f"must put out a dict of scalar tensors, not a {type(added).__name__}")
            for part, value in added.items():
                if not isinstance(value, Tensor) or value.dim():
                    kind = type(value).__name__
                    found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {kind}"
                    raise InputError(f"loss.{name}", f"puts out {part}, which must be a scalar tensor and is {found}")
            if repeated := losses.keys() & added.keys():
                raise InputError(f"loss.{name}", f"puts out {min(repeated)}, as a term before it does; remove one")
            losses = {**losses, **added}
        return losses

    def ensembles(self, output: CohortOutput) -> list[Tensor] | None:
        """Each peer's ensemble logits (B, C), or None without an aggregator."""
        return self.aggregator.combine(output.embeddings, output.logits) if self.aggregator else None
