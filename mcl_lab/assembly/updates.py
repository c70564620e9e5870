"""What changes the learners: optimizers with their schedules, and the meta event."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mcl_lab.assembly.learners import Learners
from mcl_lab.assembly.target import create
from mcl_lab.errors import InputError

FUSED = {f"torch.optim.{name}" for name in ("SGD", "Adam", "AdamW")}  # that update all parameters by a kernel or a few


def build_optimizer(config: DictConfig, params: Iterable[nn.Parameter]) -> tuple[Optimizer, LRScheduler]:
    """An optimizer of `params` with its schedule."""
    chosen = {"foreach", "fused", "differentiable"} & set(config.optimizer)
    fused = {} if chosen or config.optimizer._target_ not in FUSED else {"fused": True}
    optimizer = create("optimizer", config.optimizer, params=list(params), **fused)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError(
            "optimizer._target_", "LBFGS evaluates the loss several times a step, which the trainer does not"
        )
    schedule = create("schedule", config.schedule, optimizer=optimizer, epochs=config.trainer.epochs)
    if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise InputError(
            "schedule._target_", "ReduceLROnPlateau goes by a figure; the schedule is a function of the epoch"
        )
    return optimizer, schedule


class Updates(NamedTuple):
    """What changes the learners. `parts`: optimizers and schedules by name, all that has a state."""

    optimizer: Optimizer
    schedules: list[LRScheduler]
    meta_event: object | None  # trains the weight network; None when the loss leaves it as it is
    parts: dict[str, object]


def build_updates(config: DictConfig, learners: Learners) -> Updates:
    """Optimizers with their schedules, one for what the loss trains, one for the weight network, and the meta event."""
    trained = [*learners.cohort.parameters(), *learners.objective.parameters()]
    optimizer, schedule = build_optimizer(config, trained)
    parts, schedules, meta_event = {"optimizer": optimizer, "schedule": schedule}, [schedule], None
    if learners.weight_network is not None:
        weight_optimizer, weight_schedule = build_optimizer(config, learners.weight_network.parameters())
        parts |= {"weight_optimizer": weight_optimizer, "weight_schedule": weight_schedule}
        schedules.append(weight_schedule)
        meta_event = build_meta_event(config, learners, weight_optimizer)
    return Updates(optimizer, schedules, meta_event, parts)


def build_meta_event(config: DictConfig, learners: Learners, optimizer: Optimizer):
    """The event that trains the weight network by `optimizer`; None when the loss leaves the network as it is."""
    if config.loss.get("meta_event") is None:
        return None
    return create(
        "loss.meta_event",
        config.loss.meta_event,
        losses=learners.virtual_losses,
        weight_network=learners.weight_network,
        optimizer=optimizer,
    )
