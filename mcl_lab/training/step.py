"""One training step, from a batch to updated parameters.

B batch, C classes.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from mcl_lab.training.randomness import random_states, set_random_states

LOGGER = logging.getLogger(__name__)
MODES = {"kernels": "default", "graphs": "reduce-overhead"}  # torch.compile's names


class Step:
    """Forward, loss, backward and update, one after the other by calling it, or one by one.

    cohort: maps images (B, 3, H, W) to an output with `logits[i][k]` (B, C). objective: maps that and labels (B,) to weighted
    scalar terms by name, whose sum is the loss. optimizer: of all that they train.
    compile: "kernels" has torch.compile fuse the operations of cohort and objective, "graphs" has it launch them as CUDA graphs
    too. The first step then takes a minute or more; where it cannot be compiled, a warning says why and it goes on as written.
    """

    def __init__(
        self,
        cohort: nn.Module,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        compile: Literal["kernels", "graphs"] | None = None,
    ):
        self.cohort, self.objective, self.optimizer = cohort, objective, optimizer
        self._forward: Callable = cohort
        self.loss: Callable = objective
        self._on_trial = compile is not None
        if compile is not None:
            self._forward = torch.compile(cohort, mode=MODES[compile], dynamic=False)
            self.loss = torch.compile(objective, mode=MODES[compile], dynamic=False)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The terms, and each peer's own logits (B, C), of before the update."""
        terms, own_logits = self._try(images, labels) if self._on_trial else self._gradients(images, labels)
        self.optimizer.step()
        return terms, own_logits

    def forward(self, images: Tensor):
        """Images (B, 3, H, W) to the cohort's output."""
        if self._forward is not self.cohort:
            torch.compiler.cudagraph_mark_step_begin()  # what the last step's graphs put out is not needed any more
        return self._forward(images)

    def backward(self, terms: dict[str, Tensor]) -> None:
        """Gradients of the terms' sum in place of those that were there."""
        self.optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()

    def _gradients(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        output = self.forward(images)
        terms = self.loss(output, labels)
        self.backward(terms)
        return terms, [logits[-1] for logits in output.logits]

    def _try(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The first step, as it was written when torch.compile cannot do it: there may be no compiler."""
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        self._on_trial = False
        before = {name: value.clone() for name, value in self.cohort.state_dict().items()}
        random = random_states()
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it looks for CUDA on a CPU, too
        try:
            with warnings.catch_warnings(action="ignore"):  # of PyTorch about itself
                return self._gradients(images, labels)
        except TorchDynamoException as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            LOGGER.warning("the steps are not compiled: %s", reason)
        self._forward, self.loss = self.cohort, self.objective
        self.cohort.load_state_dict(before)  # statistics of BatchNorm, should the forward pass have come so far
        set_random_states(random)
        return self._gradients(images, labels)
