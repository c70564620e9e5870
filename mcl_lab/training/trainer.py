"""The training loop: generic in networks, losses and meta events, and resumable at every step.

B batch, C classes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mcl_lab.errors import Interrupted, RunFailed
from mcl_lab.host.clock import now_ms
from mcl_lab.training.method import Method
from mcl_lab.training.metrics import EpochMetrics
from mcl_lab.training.protocols import Batch, Batches, Progress
from mcl_lab.training.randomness import random_states, set_random_states
from mcl_lab.training.stopping import Abandoned, StopRequest


@dataclass
class Position:
    """Where a run stands: whole epochs and batches done, steps in all; `event_due`: the batch's update is done and its meta
    event is not."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    event_due: bool = False


class Trainer:
    """Trains by `method` until `epochs` or `max_steps`, evaluating after each epoch.

    evaluations: by name (`test`, `validation`), batches to score after each epoch; on `test` layer weights are recorded.
    save: called with (state, whole epochs, steps) for a checkpoint, at each epoch's end and every `checkpoint_steps` steps.
    record: called with each epoch's record once its checkpoint is written.
    """

    def __init__(
        self,
        method: Method,
        batches: Batches,
        evaluations: Mapping[str, Iterable[Batch]],
        *,
        epochs: int,
        max_steps: int | None,
        checkpoint_steps: int | None,
        save: Callable[[dict[str, Any], int, int], None],
        record: Callable[[dict[str, Any]], None],
        progress: Progress,
    ):
        self.method, self.batches, self.evaluations = method, batches, evaluations
        self.epochs, self.max_steps, self.checkpoint_steps = epochs, max_steps, checkpoint_steps
        self.save, self.record, self.progress = save, record, progress
        self.position = Position()
        self.records: list[dict[str, Any]] = []
        self.metrics = EpochMetrics(method.step.device)
        self.seconds = 0.0  # of the epoch's training steps so far
        self.stop = StopRequest()
        self._before_event: dict[str, Any] | None = None
        self._never_finite = set(self._not_finite(method.state_dict()))  # masks of -inf

    @property
    def finished(self) -> bool:
        out_of_steps = self.max_steps is not None and self.position.step >= self.max_steps
        return self.position.epoch >= self.epochs or (out_of_steps and self.position.batch == 0)

    def fit(self) -> list[dict]:
        """Go on from the present position to the end; the records of all epochs.

        Raises Interrupted when a signal asked to stop, with a checkpoint of the last step done, and RunFailed when a value
        is not finite, with no checkpoint of that state.
        """
        steps = self.epochs * len(self.batches)
        if self.max_steps is not None:
            steps = min(steps, self.max_steps)
        shown = self.progress.of(epochs=self.epochs, steps=steps, done=self.position.step)
        with self.stop, shown:
            try:
                while not self.finished:
                    self._train_epoch()
                    self._end_epoch()
            except Abandoned as asked:
                self._checkpoint(self._before_event if self.position.event_due else None)
                done = f"by {asked.signal.name} after step {self.position.step}"
                raise Interrupted(f"{done}; the same command goes on from there", asked.signal) from None
        return self.records

    def _train_epoch(self) -> None:
        position = self.position
        steps_left = None if self.max_steps is None else self.max_steps - position.step + position.event_due
        self.method.cohort.train()
        started = time.monotonic() - self.seconds
        for images, labels in islice(self.batches.epoch(position.epoch, position.batch), steps_left):
            if not position.event_due:
                self._step(images, labels)
                position.event_due = self.method.event_due(position.batch)
            if position.event_due:
                self._meta_event(images, labels)
                position.event_due = False
            position.batch += 1
            self.seconds = time.monotonic() - started
            self.progress.step(position.epoch, position.step, self.metrics.latest())
            if self.checkpoint_steps and position.step % self.checkpoint_steps == 0:
                self._checkpoint()
            self.stop.check()
        self.metrics.totals()  # waits for the device, whose time counts
        self.seconds = time.monotonic() - started

    def _step(self, images: Tensor, labels: Tensor) -> None:
        terms, own_logits = self.method.step(images, labels)
        self.position.step += 1
        self.metrics.add(terms, own_logits, labels, self.position.step)

    def _meta_event(self, images: Tensor, labels: Tensor) -> None:
        # A stop may come while the event has values of its own in place of the parameters; these are the parameters.
        self._before_event = self.state_dict()
        with self.stop.abandonable():
            gradients = self.method.hypergradient(images, labels)
        self.metrics.watch_hypergradient(gradients, self.position.step)
        self.method.apply(gradients)

    def _end_epoch(self) -> None:
        metrics = self._training_metrics() | self._evaluate()
        self.method.end_epoch()
        epoch, step = self.position.epoch + 1, self.position.step
        record = {"epoch": epoch, "step": step, "time_ms": now_ms(), "metrics": metrics}
        self.records.append(record)
        self.position = Position(epoch=epoch, step=step)
        self.metrics.reset()
        self.seconds = 0.0
        self._checkpoint()
        self.record(record)
        self.progress.epoch(record)

    def _training_metrics(self) -> dict[str, float]:
        means, own_heads = self.metrics.totals(), {}
        for peer, accuracy in zip(self.method.cohort.peers, means["accuracy"], strict=True):
            own_heads[f"train/{peer}/own_head"] = accuracy
        return {
            "train/loss": means["loss"],
            **{f"train/{name}": value for name, value in means["terms"].items()},
            **own_heads,
            "train/learning_rate": self.method.learning_rate,
            "train/seconds": self.seconds,
            "train/images_per_second": means["images"] / self.seconds,
        }

    def _evaluate(self) -> dict[str, float]:
        started = time.monotonic()
        metrics: dict[str, float] = {}
        for name, batches in self.evaluations.items():
            scores = self.method.evaluate(self.stop.guard(batches), layer_weights=name == "test")
            for peer, heads in scores["top1"].items():
                metrics |= {f"{name}/{peer}/{head}": value for head, value in heads.items()}
            metrics |= {f"layer_weights/{pair}": value for pair, value in scores.get("layer_weights", {}).items()}
        return metrics | {"train/evaluation_seconds": time.monotonic() - started}

    def _checkpoint(self, state: dict[str, Any] | None = None) -> None:
        """Save `state`, or the present one."""
        state = state or self.state_dict()
        if self.metrics.names:
            self.metrics.totals()  # raises when a value was not finite
        self._refuse_not_finite(state["parts"])
        self.save(state, self.position.epoch, self.position.step)

    def _refuse_not_finite(self, parts: dict[str, Any]) -> None:
        """Raise RunFailed that names a value: what a gradient has spoilt, an optimizer's moments too."""
        for name in self._not_finite(parts):
            if name not in self._never_finite:
                raise RunFailed(f"{name} is not finite (NaN or infinite) after step {self.position.step}")

    def _not_finite(self, parts: dict[str, Any]) -> list[str]:
        """Names of tensors; waits for the device once."""
        tensors = dict(_tensors(parts))
        finite = torch.stack([value.isfinite().all().to(self.metrics.device) for value in tensors.values()])
        return [name for name, good in zip(tensors, finite.tolist(), strict=True) if not good]

    def state_dict(self) -> dict[str, Any]:
        """All that going on needs: tensors and plain values."""
        return {
            "position": asdict(self.position),
            "parts": self.method.state_dict(),
            "figures": self.metrics.state_dict(),  # the key is that of checkpoints in people's folders
            "seconds": self.seconds,
            "records": self.records,
            "random": random_states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where the state was taken."""
        self.method.load_state_dict(state["parts"])
        self.position = Position(**state["position"])
        self.metrics.load_state_dict(state["figures"])
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
