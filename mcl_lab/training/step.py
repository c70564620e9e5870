"""One training step, from a batch to updated parameters.

B batch, C classes.
"""

import torch
from torch import Tensor, nn


class Step:
    """Forward, loss, backward and update, one after the other by calling it, or one by one.

    cohort: maps images (B, 3, H, W) to an output with `logits[i][k]` (B, C). objective: maps that and labels (B,) to weighted
    scalar terms by name, whose sum is the loss. optimizer: of all that they train.
    """

    def __init__(self, cohort: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer):
        self.forward = cohort
        self.loss = objective
        self.optimizer = optimizer

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The terms, and each peer's own logits (B, C), of before the update."""
        output = self.forward(images)
        terms = self.loss(output, labels)
        self.backward(terms)
        self.optimizer.step()
        return terms, [logits[-1] for logits in output.logits]

    def backward(self, terms: dict[str, Tensor]) -> None:
        """Gradients of the terms' sum in place of those that were there."""
        self.optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
