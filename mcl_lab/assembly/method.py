"""The method that a config means: what learns, its optimizers with their schedules, and the meta event."""

from collections.abc import Iterable, Sequence

from omegaconf import DictConfig
from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mcl_lab.assembly.learners import Learners
from mcl_lab.assembly.target import create
from mcl_lab.assembly.trial import try_meta_event
from mcl_lab.errors import InputError
from mcl_lab.meta.event import MetaEvent
from mcl_lab.training.method import Method, Update

FUSED = {f"torch.optim.{name}" for name in ("SGD", "Adam", "AdamW")}  # that update all parameters by a kernel or a few


def build_method(config: DictConfig, learners: Learners, image_size: Sequence[int] = (32, 32)) -> Method:
    """How a config trains its learners, at the beginning. A meta event of what is not ours is tried on images of that height
    and width."""
    trainer, network, event = config.trainer, learners.weight_network, config.loss.get("meta_event")
    trained = [learners.cohort, learners.objective]
    _refuse_frozen("pair.peers", trained, "train one of the networks")
    update = build_update(config.optimizer, config.schedule, trained, trainer.epochs)
    weight_update = meta_event = None
    if network is not None and event is not None:
        _refuse_frozen("loss.weight_network", [network], "loss.meta_event=null leaves it as it is")
        weight_update = build_update(config.optimizer, config.schedule, [network], trainer.epochs)
        meta_event = build_meta_event(event, learners, weight_update.optimizer)
        try_meta_event(meta_event, learners, image_size, channels_last=trainer.channels_last)
    return Method(
        learners.cohort,
        learners.objective,
        update,
        weight_network=network,
        weight_update=weight_update,
        meta_event=meta_event,
        compile=trainer.compile,
        graphs=trainer.graphs,
    )


def build_update(optimizer: DictConfig, schedule: DictConfig, modules: Iterable[nn.Module], epochs: int) -> Update:
    """An optimizer of the modules' parameters with its schedule."""
    params = list(nn.ModuleList(modules).parameters())  # one that two modules share is there once
    chosen = {"foreach", "fused", "differentiable"} & set(optimizer)
    fused = {} if chosen or optimizer._target_ not in FUSED else {"fused": True}
    made = create("optimizer", optimizer, params=params, **fused)
    if isinstance(made, LBFGS):
        raise InputError(
            "optimizer._target_", "LBFGS evaluates the loss several times a step, which the trainer does not"
        )
    scheduled = create("schedule", schedule, optimizer=made, epochs=epochs)
    if isinstance(scheduled, ReduceLROnPlateau):
        raise InputError(
            "schedule._target_", "ReduceLROnPlateau goes by a metric; the schedule is a function of the epoch"
        )
    return Update(made, scheduled)


def build_meta_event(node: DictConfig, learners: Learners, optimizer: Optimizer) -> MetaEvent:
    """The event that trains the weight network by `optimizer`."""
    losses, weight_network = learners.virtual_losses, learners.weight_network
    return create("loss.meta_event", node, losses=losses, weight_network=weight_network, optimizer=optimizer)


def _refuse_frozen(key: str, modules: Iterable[nn.Module], remedy: str) -> None:
    if not any(parameter.requires_grad for module in modules for parameter in module.parameters()):
        raise InputError(key, f"nothing to train, as no parameter requires gradient; {remedy}")
