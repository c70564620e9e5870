"""What an epoch's steps add up to, kept on the training device.

N peers, B batch, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from mcl_lab.errors import RunFailed


class Means(TypedDict):
    """Means over the epoch's images so far."""

    loss: float
    terms: dict[str, float]  # by name, weighted
    accuracy: list[float]  # %, of each peer's own head
    images: float  # how many


class EpochMetrics:
    """Running sums of the loss terms and of the own heads' correct answers, and the first value that was not finite.

    No step waits for the device: `add` only launches, `latest` gives the newest copy that has arrived on the host, and
    `totals`, for an epoch's end, waits.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Begin an epoch."""
        self.names: list[str] = []  # the loss terms, known from the first step on
        self.sums = torch.zeros(0, dtype=torch.float64, device=self.device)
        self._under_way: tuple[Tensor, torch.cuda.Event] | None = None  # the copy on the host, and when it is there
        self._arrived: list[float] | None = None

    def add(self, terms: Mapping[str, Tensor], own_logits: Sequence[Tensor], labels: Tensor, step: int) -> None:
        """Count one step: its weighted terms, the logits (B, C) of every peer's own head, labels (B,).

        Raises RunFailed when the terms are not those of the epoch's first step.
        """
        if not self.names:
            self.names = list(terms)
            self.sums = torch.zeros(len(terms) + len(own_logits) + 2, dtype=torch.float64, device=self.device)
            self.sums[-1] = -1
        if terms.keys() != set(self.names):
            names = f"{', '.join(terms)}, not {', '.join(self.names)} as before"
            raise RunFailed(
                f"the loss terms of step {step} are {names}; one that has no part in a step must be 0 there"
            )
        values = torch.stack([terms[name].detach() for name in self.names])
        correct = (torch.stack(list(own_logits)).argmax(-1) == labels).sum(-1)
        self.sums[:-1] += torch.cat([values * len(labels), correct, correct.new_full((1,), len(labels))])
        self._watch(values, step, 0)
        self._copy()

    def watch_hypergradient(self, gradients: Sequence[Tensor], step: int) -> None:
        """Remember when a meta event's gradients are not finite, as a loss term would be."""
        self._watch(torch.stack([gradient.sum() for gradient in gradients]).sum()[None], step, len(self.names))

    def _watch(self, values: Tensor, step: int, first: int) -> None:
        """Keep the first step and quantity (terms in their order, then the hypergradient) that are not finite as one number,
        step * (terms + 1) + quantity; -1 is none so far."""
        bad = ~torch.isfinite(values)
        code = torch.where(bad.any(), step * (len(self.names) + 1) + first + bad.int().argmax(), -1)
        self.sums[-1] = torch.where(self.sums[-1] < 0, code, self.sums[-1])

    def _copy(self) -> None:
        """Bring the sums to the host without waiting; on CUDA they arrive some steps old."""
        if self.device.type != "cuda":
            self._arrived = self.sums.tolist()
            return
        if self._under_way is None:
            self._under_way = torch.zeros_like(self.sums, device="cpu", pin_memory=True), torch.cuda.Event()
            host, copied = self._under_way
        else:
            host, copied = self._under_way
            if not copied.query():
                return
            self._arrived = host.tolist()
        host.copy_(self.sums, non_blocking=True)
        copied.record()

    def latest(self) -> Means | None:
        """The newest means that have arrived, None before the first; else as `totals`, RunFailed included."""
        return self._means(self._arrived) if self._arrived else None

    def totals(self) -> Means:
        """The means so far. Raises RunFailed that names the term and the step when a term has not been finite."""
        return self._means(self.sums.tolist())

    def _means(self, sums: list[float]) -> Means:
        *values, images, first_bad = sums
        if first_bad >= 0:
            step, quantity = divmod(int(first_bad), len(self.names) + 1)
            name = [*(f"loss term {name}" for name in self.names), "the hypergradient"][quantity]
            raise RunFailed(f"{name} is not finite (NaN or infinite) at step {step}")
        terms = {name: value / images for name, value in zip(self.names, values, strict=False)}
        accuracy = [100 * correct / images for correct in values[len(self.names) :]]
        return {"loss": sum(terms.values()), "terms": terms, "accuracy": accuracy, "images": images}

    def state_dict(self) -> dict[str, Any]:
        return {"names": self.names, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reset()
        self.names = list(state["names"])
        self.sums = state["sums"].to(self.device)
