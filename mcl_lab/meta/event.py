"""The meta event: one hypergradient step of the weight network (L-MCL, TPAMI 2023, section 3.5)."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypedDict

import numpy
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mcl_lab.meta.hypergradient import hypergradient
from mcl_lab.meta.second_derivatives import Product, by_either

OFFERED = {"loss.meta_event": ["MetaEvent"]}  # to configs, by place


class VirtualSteps(TypedDict):
    """Arguments of `hypergradient`."""

    inner_steps: int
    outer_steps: int
    momentum: float
    weight_decay: float


class MetaEvent:
    """After batches 0, every, 2 every, ... of an epoch the weight network learns from where virtual steps lead.

    losses: module of the parameters that take the virtual steps; `losses(images, labels, weight_network)` is the scalar
        they descend on with the layer-matching weights, `losses(images, labels, None)` the one that judges the weights.
    weight_network: its parameters are trained by `optimizer`, and by nothing else.
    Parameters of either that do not require gradient are constants, which no step and no weight decay moves.
    inner_steps, outer_steps, momentum, weight_decay: of the virtual SGD (hypergradient.py).

    But for the weight network and its optimizer an event leaves everything as it was: parameters, buffers, gradients and
    random states.
    """

    def __init__(
        self,
        losses: nn.Module,
        weight_network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        every: Annotated[int, ">= 1"] = 50,
        inner_steps: Annotated[int, ">= 1"] = 2,
        outer_steps: Annotated[int, ">= 0"] = 1,
        momentum: Annotated[float, "[0, 1)"] = 0.9,
        weight_decay: Annotated[float, ">= 0"] = 0.0005,
    ):
        self.losses = losses
        self.weight_network = weight_network
        self.optimizer = optimizer
        self.every = every
        self.virtual_steps = VirtualSteps(
            inner_steps=inner_steps, outer_steps=outer_steps, momentum=momentum, weight_decay=weight_decay
        )
        self.along: Product = by_either  # how its products with second derivatives are computed
        self._draws = False  # whether the losses were seen to draw random numbers on a CUDA device

    def due(self, batch: int) -> bool:
        """Whether an event follows the update of this batch, counted from 0 in each epoch."""
        return batch % self.every == 0

    def hypergradient(self, images: Tensor, labels: Tensor, lr: float | Tensor) -> list[Tensor]:
        """The outer loss's gradient by each trained parameter of the weight network, on images (B, 3, H, W) and labels (B,), with
        virtual steps of length `lr`. Changes nothing, so it may be broken off anywhere.

        Raises RuntimeError when a CUDA graph is to be made of losses that draw random numbers."""
        trained, places = _trained(self.losses), list(places_of(self.losses))
        buffers: dict[Tensor, Tensor] = {buffer: buffer.clone() for buffer in self.losses.buffers()}

        def loss(theta: dict[str, Tensor], weight_network: nn.Module | None) -> Tensor:
            given = buffers | {trained[name]: value for name, value in theta.items()}
            values = {place: given[tensor] for place, tensor in places if tensor in given}
            with self._same_draws(images.device):
                return functional_call(self.losses, values, (images, labels, weight_network), tie_weights=False)

        return hypergradient(
            lambda theta: loss(theta, self.weight_network),
            lambda theta: loss(theta, None),
            trained,
            list(_trained(self.weight_network).values()),
            lr=lr,
            along=self.along,
            **self.virtual_steps,
        )

    @contextmanager
    def _same_draws(self, device: torch.device) -> Iterator[None]:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():  # a graph cannot put random states back
            if self._draws:
                raise RuntimeError("the losses of a meta event draw random numbers")
            yield
            return
        with same_draws(device) as drawn:
            yield
            self._draws = self._draws or drawn()

    def apply(self, gradients: list[Tensor]) -> None:
        """One step of the weight network's optimizer along `gradients`."""
        for parameter, gradient in zip(_trained(self.weight_network).values(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


@contextmanager
def same_draws(device: torch.device) -> Iterator[Callable[[], bool]]:
    """Whatever is drawn inside, dropout say, is the same each time, and none of it is used up. Yields what tells whether
    random numbers of a CUDA device have been drawn."""
    cuda = [device] if device.type == "cuda" else []
    of_python, of_numpy = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=cuda):
        before = [torch.cuda.get_rng_state(one) for one in cuda]
        try:
            yield lambda: any(not a.equal(torch.cuda.get_rng_state(b)) for a, b in zip(before, cuda, strict=True))
        finally:
            random.setstate(of_python)
            numpy.random.set_state(of_numpy)


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require gradient, by name; one in several places once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def places_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, parameter or buffer) of every place that holds one, also where several hold the same; the places of a module that
    has several names by one of them, as functional_call, given more, leaves its values in the module."""
    for prefix, part in module.named_modules():
        yield from part.named_parameters(prefix, recurse=False, remove_duplicate=False)
        yield from part.named_buffers(prefix, recurse=False, remove_duplicate=False)
