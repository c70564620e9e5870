"""How a cohort learns: its method, deep mutual learning say, or L-MCL, as one object that trains and has a state.

B batch.
"""

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mcl_lab.training.evaluation import Scores, evaluate
from mcl_lab.training.graphs import Graphed
from mcl_lab.training.protocols import Batch, Cohort, MetaEvent, Objective, Stateful
from mcl_lab.training.step import Step


class Update(NamedTuple):
    """How parameters change: by an optimizer, whose learning rate a schedule sets once an epoch."""

    optimizer: Optimizer
    schedule: LRScheduler


class Method:
    """A cohort with the objective that it is trained by, and a weight network with the meta event that trains it.

    update: of all parameters of cohort and objective. weight_update: of those of the weight network.
    meta_event: without one the weight network stays as it is.
    compile, graphs: as of `Step`; graphs are for meta events, too.

    Its `step` is one of training, from images (B, 3, H, W) and labels (B,) to updated parameters.
    """

    def __init__(
        self,
        cohort: Cohort,
        objective: Objective,
        update: Update,
        *,
        weight_network: nn.Module | None = None,
        weight_update: Update | None = None,
        meta_event: MetaEvent | None = None,
        compile: bool = False,
        graphs: bool = False,
    ):
        self.cohort, self.objective, self.weight_network = cohort, objective, weight_network
        self.optimizer, self.schedules = update.optimizer, [update.schedule]
        self.parts: dict[str, Stateful] = {"cohort": cohort, "objective": objective, **update._asdict()}
        if weight_update is not None:
            self.schedules.append(weight_update.schedule)
            self.parts |= {f"weight_{name}": part for name, part in weight_update._asdict().items()}
        if weight_network is not None:
            self.parts["weight_network"] = weight_network
        self.step = Step(cohort, objective, update.optimizer, compile, graphs)
        self.meta_event = meta_event
        self._hypergradient: Callable[[Tensor, Tensor, float], list[Tensor]] | None = None
        if meta_event is not None:
            event = meta_event.hypergradient
            self._hypergradient = Graphed(event, self.step.device) if graphs else event

    @property
    def learning_rate(self) -> float:
        """Of cohort and objective, and of the virtual steps of a meta event."""
        return self.optimizer.param_groups[0]["lr"]

    def event_due(self, batch: int) -> bool:
        """Whether a meta event follows the step of this batch, counted from 0 in each epoch."""
        return self.meta_event is not None and self.meta_event.due(batch)

    def hypergradient(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """What a meta event is to change the weight network by. Changes nothing, so that it may be broken off."""
        assert self._hypergradient is not None, "there is no meta event"
        return self._hypergradient(images, labels, self.learning_rate)

    def apply(self, gradients: list[Tensor]) -> None:
        """The update of a meta event by its hypergradient."""
        assert self.meta_event is not None, "there is no meta event"
        self.meta_event.apply(gradients)

    def end_epoch(self) -> None:
        """Set the learning rates of the next epoch."""
        with warnings.catch_warnings():  # of an optimizer whose steps were done before this process resumed the run
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for schedule in self.schedules:
                schedule.step()

    def evaluate(self, batches: Iterable[Batch], *, layer_weights: bool) -> Scores:
        """Accuracies of every head and ensemble, and the mean layer-matching weights if asked for and there are any."""
        pair_weights = self.objective.pair_weights if layer_weights else None
        beside = [part for part in self.parts.values() if isinstance(part, nn.Module)]
        return evaluate(self.cohort, self.objective.ensembles, batches, pair_weights, beside)

    def networks(self) -> dict[str, dict[str, Any]]:
        """The states of all that is a module, which is what a finished run keeps."""
        return {name: part.state_dict() for name, part in self.parts.items() if isinstance(part, nn.Module)}

    def state_dict(self) -> dict[str, dict[str, Any]]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
