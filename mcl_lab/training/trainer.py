"""The training loop: generic in networks, losses and meta events, and resumable at every step.

B batch, C classes.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn

from mcl_lab.errors import Interrupted, RunFailed
from mcl_lab.host.clock import now_ms
from mcl_lab.training.evaluation import evaluate
from mcl_lab.training.figures import EpochFigures
from mcl_lab.training.graphs import Graphed
from mcl_lab.training.randomness import random_states, set_random_states
from mcl_lab.training.step import Step
from mcl_lab.training.stopping import Abandoned, StopRequest


class Batches(Protocol):
    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterable[tuple[Tensor, Tensor]]:
        """Images (B, 3, H, W) and labels (B,) of an epoch's batches from `start` on, the same whenever it is asked."""


class MetaEvent(Protocol):
    def due(self, batch: int) -> bool: ...
    def hypergradient(self, images: Tensor, labels: Tensor, lr: float | Tensor) -> list[Tensor]: ...
    def apply(self, gradients: list[Tensor]) -> None: ...


class Progress(Protocol):
    def of(self, *, epochs: int, steps: int, done: int) -> AbstractContextManager: ...
    def step(self, epoch: int, step: int, figures: dict | None) -> None: ...
    def epoch(self, record: dict) -> None: ...


@dataclass
class Position:
    """Where a run stands: whole epochs and batches done, steps in all; `event_due`: the batch's update is done and its meta
    event is not."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    event_due: bool = False


class Trainer:
    """Trains until `epochs` or `max_steps`, evaluating after each epoch.

    objective: maps the cohort's output and labels to weighted scalar terms by name; its `ensembles` and `pair_weights` are
        those of `evaluate`. optimizer: of all that the terms train.
    evaluations: by name (`test`, `validation`), batches to score after each epoch; on `test` layer weights are recorded.
    parts: by name, all that has a state (state_dict, load_state_dict), what is named here included.
    compile, graphs: as of `Step`; graphs are for meta events, too.
    save: called with (state, whole epochs, steps) for a checkpoint, at each epoch's end and every `checkpoint_steps` steps.
    record: called with each epoch's record once its checkpoint is written.
    """

    def __init__(
        self,
        *,
        cohort: nn.Module,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedules: Sequence[torch.optim.lr_scheduler.LRScheduler],
        batches: Batches,
        evaluations: Mapping[str, Iterable[tuple[Tensor, Tensor]]],
        meta_event: MetaEvent | None,
        parts: Mapping[str, object],
        device: torch.device,
        epochs: int,
        max_steps: int | None,
        checkpoint_steps: int | None,
        compile: bool = False,
        graphs: bool = False,
        save: Callable[[dict, int, int], None],
        record: Callable[[dict], None],
        progress: Progress,
    ):
        self.cohort = cohort
        self.objective = objective
        self.optimizer = optimizer
        self.step = Step(cohort, objective, optimizer, compile, graphs)
        self.schedules = schedules
        self.batches = batches
        self.evaluations = evaluations
        self.meta_event = meta_event
        if meta_event is not None:
            self._hypergradient = Graphed(meta_event.hypergradient, device) if graphs else meta_event.hypergradient
        self.parts = parts
        self.device = device
        self.epochs = epochs
        self.max_steps = max_steps
        self.checkpoint_steps = checkpoint_steps
        self.save = save
        self.record = record
        self.progress = progress
        self.position = Position()
        self.records: list[dict] = []
        self.figures = EpochFigures(device)
        self.seconds = 0.0  # of the epoch's training steps so far
        self.stop = StopRequest()
        self._before_event: dict | None = None

    @property
    def finished(self) -> bool:
        out_of_steps = self.max_steps is not None and self.position.step >= self.max_steps
        return self.position.epoch >= self.epochs or (out_of_steps and self.position.batch == 0)

    def fit(self) -> list[dict]:
        """Go on from the present position to the end; the records of all epochs.

        Raises Interrupted when a signal asked to stop, with a checkpoint of the last step done, and RunFailed when a value
        is not finite, with no checkpoint of that state.
        """
        steps = min(self.epochs * len(self.batches), self.max_steps or float("inf"))
        shown = self.progress.of(epochs=self.epochs, steps=steps, done=self.position.step)
        with self.stop, shown:
            try:
                while not self.finished:
                    self._train_epoch()
                    self._end_epoch()
            except Abandoned:
                self._checkpoint(self._before_event if self.position.event_due else None)
                raise Interrupted(
                    f"by {self.stop.name} after step {self.position.step}; the same command goes on from there",
                    self.stop.signal,
                ) from None
        return self.records

    def _train_epoch(self) -> None:
        position = self.position
        steps_left = None if self.max_steps is None else self.max_steps - position.step + position.event_due
        self.cohort.train()
        started = time.monotonic() - self.seconds
        for images, labels in islice(self.batches.epoch(position.epoch, position.batch), steps_left):
            if not position.event_due:
                self._step(images, labels)
                position.event_due = self.meta_event is not None and self.meta_event.due(position.batch)
            if position.event_due:
                self._meta_event(images, labels)
                position.event_due = False
            position.batch += 1
            self.seconds = time.monotonic() - started
            self.progress.step(position.epoch, position.step, self.figures.latest())
            if self.checkpoint_steps and position.step % self.checkpoint_steps == 0:
                self._checkpoint()
            self.stop.check()
        self.figures.totals()  # waits for the device, whose time counts
        self.seconds = time.monotonic() - started

    def _step(self, images: Tensor, labels: Tensor) -> None:
        terms, own_logits = self.step(images, labels)
        self.position.step += 1
        self.figures.add(terms, own_logits, labels, self.position.step)

    def _meta_event(self, images: Tensor, labels: Tensor) -> None:
        # A stop may come while the event has values of its own in place of the parameters; these are the parameters.
        self._before_event = self.state_dict()
        with self.stop.abandonable():
            gradients = self._hypergradient(images, labels, self.optimizer.param_groups[0]["lr"])
        self.figures.watch_hypergradient(gradients, self.position.step)
        self.meta_event.apply(gradients)

    def _end_epoch(self) -> None:
        totals = self.figures.totals()
        metrics = {
            "train/loss": totals["loss"],
            **{f"train/{name}": value for name, value in totals["terms"].items()},
            **{
                f"train/{peer}/own_head": value
                for peer, value in zip(self.cohort.peers, totals["accuracy"], strict=True)
            },
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
            "train/seconds": self.seconds,
            "train/images_per_second": totals["images"] / self.seconds,
        }
        started = time.monotonic()
        beside = [part for part in self.parts.values() if isinstance(part, nn.Module)]
        for name, batches in self.evaluations.items():
            pair_weights = self.objective.pair_weights if name == "test" else None
            found = evaluate(self.cohort, self.objective.ensembles, self.stop.guard(batches), pair_weights, beside)
            for peer, heads in found["top1"].items():
                metrics |= {f"{name}/{peer}/{head}": value for head, value in heads.items()}
            metrics |= {f"layer_weights/{pair}": value for pair, value in found.get("layer_weights", {}).items()}
        metrics["train/evaluation_seconds"] = time.monotonic() - started
        with warnings.catch_warnings():  # of an optimizer whose steps were done before this process resumed the run
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for schedule in self.schedules:
                schedule.step()
        position = self.position
        record = {
            "epoch": position.epoch + 1,
            "step": position.step,
            "time_ms": now_ms(),
            "metrics": metrics,
        }
        self.records.append(record)
        self.position = Position(epoch=position.epoch + 1, step=position.step)
        self.figures.reset()
        self.seconds = 0.0
        self._checkpoint()
        self.record(record)
        self.progress.epoch(record)

    def _checkpoint(self, state: dict | None = None) -> None:
        """Save `state`, or the present one."""
        state = state or self.state_dict()
        if self.figures.names:
            self.figures.totals()  # raises when a value was not finite
        self._refuse_not_finite(state["parts"])
        self.save(state, self.position.epoch, self.position.step)

    def _refuse_not_finite(self, parts: dict) -> None:
        """Raise RunFailed that names a value: what a gradient has spoilt, an optimizer's moments too."""
        tensors = dict(_tensors(parts))
        finite = torch.stack([value.isfinite().all().to(self.device) for value in tensors.values()])
        if not finite.all():  # waits for the device once
            name = list(tensors)[finite.tolist().index(False)]
            raise RunFailed(f"{name} is not finite (NaN or infinite) after step {self.position.step}")

    def state_dict(self) -> dict:
        """All that going on needs: tensors and plain values."""
        return {
            "position": asdict(self.position),
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "figures": self.figures.state_dict(),
            "seconds": self.seconds,
            "records": self.records,
            "random": random_states(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Stand where the state was taken."""
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.position = Position(**state["position"])
        self.figures.load_state_dict(state["figures"])
        self.seconds = state["seconds"]
        self.records = list(state["records"])
        set_random_states(state["random"])


def _tensors(tree: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """(names on the way to it, tensor) of every tensor in nested dicts and lists."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _tensors(value, f"{name} {key}".lstrip())
