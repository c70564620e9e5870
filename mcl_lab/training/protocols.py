"""What training asks of the other rooms: of networks, losses, meta events, data, and whatever shows how far a run is.

N peers, S_i heads of peer i, B batch, C classes, D_i embedding width of peer i, P pairs of embeddings of different peers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

Embeddings = Sequence[Sequence[Tensor]]  # [i][k] (B, D_i)
Batch = tuple[Tensor, Tensor]  # images (B, 3, H, W), labels (B,)


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Any, /) -> object: ...


class Module(Stateful, Protocol):
    """As much of a torch.nn.Module as is used: a protocol can name no class among its bases."""

    training: bool

    def train(self, mode: bool = True) -> object: ...
    def eval(self) -> object: ...


class CohortOutput(Protocol):
    @property
    def embeddings(self) -> Embeddings: ...

    @property
    def logits(self) -> Sequence[Sequence[Tensor]]:
        """`[i][k]` (B, C); the last k is the network's own head."""


class Cohort(Module, Protocol):
    @property
    def peers(self) -> Iterable[str]:
        """Their names, in the order of the output."""

    def __call__(self, images: Tensor, /) -> CohortOutput: ...


class Objective(Module, Protocol):
    @property
    def pair_weights(self) -> Callable[[Embeddings], Tensor] | None:
        """Embeddings to layer-matching weights (P, B), in the order for i, for j != i, for k, for z; None: all are 1."""

    def __call__(self, output: CohortOutput, labels: Tensor, /) -> dict[str, Tensor]:
        """Weighted scalar terms by name, whose sum is the loss."""

    def ensembles(self, output: CohortOutput, /) -> Sequence[Tensor] | None:
        """Each peer's ensemble logits (B, C), when there are any."""


class MetaEvent(Protocol):
    """Trains the weight network."""

    def due(self, batch: int) -> bool:
        """Whether an event follows the update of this batch of an epoch."""

    def hypergradient(self, images: Tensor, labels: Tensor, lr: float | Tensor) -> list[Tensor]:
        """Changes nothing, so that it may be broken off."""

    def apply(self, gradients: list[Tensor]) -> None: ...


class Batches(Protocol):
    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterable[Batch]:
        """An epoch's batches from `start` on, the same whenever it is asked."""


class Progress(Protocol):
    """Shows how far a run is: within `of` it is told of each step, whose metrics may lag some steps behind or not be there
    yet, and of each epoch's record as the journal has it."""

    def of(self, *, epochs: int, steps: int, done: int) -> AbstractContextManager[None]: ...
    def step(self, epoch: int, step: int, metrics: Mapping | None) -> None: ...
    def epoch(self, record: dict) -> None: ...
