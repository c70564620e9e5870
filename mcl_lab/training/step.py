"""One training step, from a batch to updated parameters.

B batch, C classes.
"""

import logging
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mcl_lab.training.graphs import Graphed
from mcl_lab.training.protocols import Cohort, CohortOutput, Objective
from mcl_lab.training.randomness import random_states, set_random_states

LOGGER = logging.getLogger(__name__)
_Found = tuple[dict[str, Tensor], list[Tensor], list[Tensor | None]]  # terms, own logits, gradients


class Step:
    """Forward, loss, backward and update, one after the other by calling it, or one by one as they are written.

    optimizer: of all that cohort and objective train.
    compile: have torch.compile fuse the operations of cohort and objective. The first step then takes a minute or more; where it
        cannot be compiled, a warning says why and it goes on as written.
    graphs: launch everything before the update as one CUDA graph (`Graphed`); what calling it puts out, gradients included, is
        overwritten by the next call.
    """

    def __init__(
        self,
        cohort: Cohort,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        compile: bool = False,
        graphs: bool = False,
    ):
        self.cohort, self.objective, self.optimizer = cohort, objective, optimizer
        self.forward: Callable[[Tensor], CohortOutput] = cohort
        self.loss: Callable[[CohortOutput, Tensor], dict[str, Tensor]] = objective
        self._on_trial = compile
        if compile:
            self.forward = torch.compile(cohort, dynamic=False)
            self.loss = torch.compile(objective, dynamic=False)
        self._parameters: list[Tensor] = [value for group in optimizer.param_groups for value in group["params"]]
        self.device = self._parameters[0].device
        self._work: Callable[[Tensor, Tensor], _Found] = self._gradients
        if graphs:
            self._work = Graphed(self._gradients, self.device)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The terms, and each peer's own logits (B, C), of before the update."""
        found = self.gradients(images, labels)
        self.optimizer.step()
        return found

    def gradients(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Everything before the update, as one; puts out what a step does."""
        terms, own_logits, gradients = self._try(images, labels) if self._on_trial else self._work(images, labels)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return terms, own_logits

    def backward(self, terms: dict[str, Tensor]) -> None:
        """Gradients of the terms' sum in place of those that were there."""
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = sum(terms.values())  # type: ignore[assignment]  # there is one term or more: no int
        loss.backward()

    def _gradients(self, images: Tensor, labels: Tensor) -> _Found:
        output = self.forward(images)
        terms = self.loss(output, labels)
        self.backward(terms)
        own_logits = [logits[-1].detach() for logits in output.logits]
        return {name: term.detach() for name, term in terms.items()}, own_logits, [x.grad for x in self._parameters]

    def _try(self, images: Tensor, labels: Tensor) -> _Found:
        """The first step, as it was written when torch.compile cannot do it: there may be no compiler."""
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        self._on_trial = False
        tried = (self.cohort, self.objective)
        before = [{name: value.clone() for name, value in module.state_dict().items()} for module in tried]
        random = random_states()
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it looks for CUDA on a CPU, too
        try:
            with warnings.catch_warnings(action="ignore"):  # of PyTorch about itself
                return self._gradients(images, labels)
        except TorchDynamoException as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            LOGGER.warning("the steps are not compiled: %s", reason)
        self.forward, self.loss = self.cohort, self.objective
        for module, state in zip(tried, before, strict=True):
            module.load_state_dict(state)  # statistics of BatchNorm, should the forward pass have come so far
        set_random_states(random)
        return self._gradients(images, labels)
