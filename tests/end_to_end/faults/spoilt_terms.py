"""A term of the loss and a meta event that are not finite at a chosen step: plugins, as a user's own code may be."""

import torch
from torch import nn

from mcl_lab.losses.term import LossInput
from mcl_lab.meta.event import MetaEvent

VALUES = {"not_a_number": float("nan"), "infinite": float("inf")}  # YAML would take nan and inf for numbers


class Spoilt(nn.Module):
    """A term that is 0 but for one step. where: `loss`, `gradient` (the loss is finite, its gradient is not), `moments` (the
    gradient is finite, its square in float32 is not)."""

    def __init__(self, step: int, where: str, value: str):
        super().__init__()
        self.step, self.where, self.value = step, where, VALUES[value]
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # in checkpoints

    def forward(self, batch: LossInput) -> dict[str, torch.Tensor]:
        logits = batch.logits[0][-1]
        if not self.training or not logits.requires_grad:
            return {"spoilt": logits.sum() * 0}
        self.steps += 1
        factor = 0.0
        if self.steps == self.step:
            if self.where == "loss":
                return {"spoilt": logits.sum() * self.value}
            factor = self.value if self.where == "gradient" else 1e25
        return {"spoilt": _Gradient.apply(logits, factor)}


class _Gradient(torch.autograd.Function):
    """0, with a gradient of `factor` in every place."""

    @staticmethod
    def forward(context, logits, factor):
        context.shape, context.factor = logits.shape, factor
        return logits.new_zeros(())

    @staticmethod
    def backward(context, gradient):
        return gradient.new_full(context.shape, 1.0) * context.factor, None


class SpoiltEvent(MetaEvent):
    """The hypergradient of its n-th event is not finite."""

    def __init__(self, losses, weight_network, optimizer, *, event: int, every: int):
        super().__init__(losses, weight_network, optimizer, every=every)
        self.event, self.events = event, 0

    def hypergradient(self, images, labels, lr):
        gradients = super().hypergradient(images, labels, lr)
        self.events += 1
        if self.events == self.event:
            gradients[0][0, 0] = float("inf")
        return gradients
