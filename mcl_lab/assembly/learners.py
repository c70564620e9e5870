"""What learns: the cohort, its objective and the weight network. All that they refuse is an InputError."""

import contextlib
import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mcl_lab.assembly.target import create
from mcl_lab.errors import InputError
from mcl_lab.losses.aggregation import Aggregator
from mcl_lab.losses.objective import Objective
from mcl_lab.losses.virtual import VirtualLosses
from mcl_lab.networks.cohort import Cohort, CohortOutput
from mcl_lab.networks.staged import StagedNetwork
from mcl_lab.runs.failures import is_out_of_memory
from mcl_lab.runs.journal import CLOCK

LONGEST_NAME = 246  # characters of a metric; MLflow takes 250


class Learners(NamedTuple):
    """What learns: `weight_network` and `virtual_losses` when the loss has trained layer-matching weights."""

    cohort: Cohort
    objective: Objective
    weight_network: nn.Module | None
    virtual_losses: VirtualLosses | None


def build_learners(
    config: DictConfig,
    num_classes: int,
    device: torch.device,
    image_size: Sequence[int] = (32, 32),
    *,
    trained: bool = False,
) -> Learners:
    """What a config trains, freshly initialised from PyTorch's random state: first the cohort, then what the loss has; tried on
    blank images (height and width) and the labels of a batch. trained: as in `build_network`."""
    cohort = build_cohort(
        config.pair,
        num_classes,
        branches=config.loss.branches,
        autocast=torch.bfloat16 if config.trainer.precision == "bf16" else None,
        trained=trained,
    ).to(device)
    if config.trainer.channels_last:
        cohort = cohort.to(memory_format=torch.channels_last)
    learners = build_objective(config.loss, cohort, num_classes, device)
    blank = torch.zeros(2, 3, *image_size, device=device)
    terms = _refuse_useless(cohort, learners.objective, blank, config.data.batch_size)
    for name in [] if trained else terms:
        _refuse_term_name(name, cohort.peers)
    return learners


def build_cohort(
    pair: DictConfig, num_classes: int, *, branches: bool, autocast: torch.dtype | None, trained: bool = False
) -> Cohort:
    """The peers of a pair, in the order of their keys. trained: as in `build_network`."""
    keys = sorted(pair.peers)
    networks = {key: build_network(pair.peers[key], key, num_classes, trained=trained) for key in keys}
    for key in keys if branches else []:
        refuse_uncopied(key, *networks[key].stages[1:], networks[key].neck)
    return Cohort(networks, branches=branches, autocast=autocast)


def build_network(node: DictConfig, key: str, num_classes: int, *, trained: bool = False) -> StagedNetwork:
    """A peer's network from its node of the config. trained: it is to get the weights of a run that may have been trained before
    its class refused what it refuses now (`StagedNetwork.check`)."""
    if hasattr(nn.ModuleDict(), key):
        raise InputError(f"pair.peers.{key}", "is a name that PyTorch's modules use themselves; choose another")
    arguments = OmegaConf.masked_copy(node, [str(name) for name in node if name != "name"])
    try:
        network = create(f"pair.peers.{key}", arguments, num_classes=num_classes)
    except FileNotFoundError as error:  # of pretrained weights, say
        raise InputError(f"pair.peers.{key}", f"the network reads {error.filename}, which is not there") from error
    if not isinstance(network, StagedNetwork):
        raise InputError(f"pair.peers.{key}._target_", f"{node._target_} is no StagedNetwork (mcl_lab.networks.staged)")
    _refuse_lazy(f"pair.peers.{key}", network)
    if not trained:
        try:
            network.check()
        except ValueError as error:
            raise InputError(f"pair.peers.{key}", str(error)) from error
    return network


def refuse_uncopied(key: str, *parts: nn.Module) -> None:
    """Raise InputError for a layer of a peer that PyTorch cannot copy, as a branch does: one that keeps a tensor computed from
    its parameters."""
    for layer in (layer for part in parts for layer in part.modules()):
        for name, value in vars(layer).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                kept = (
                    f"a {type(layer).__name__} keeps a {name} that is computed from its parameters and cannot be copied"
                )
                hint = "as torch.nn.utils.weight_norm does; torch.nn.utils.parametrizations.weight_norm does not"
                raise InputError(f"pair.peers.{key}", f"{kept}, {hint}")


def build_objective(loss: DictConfig, cohort: Cohort, num_classes: int, device: torch.device) -> Learners:
    """The objective that a loss means for a cohort, and the weight network if it has terms for it to weigh."""
    nodes = _build_nodes(loss, cohort, num_classes, device)
    weight_network = nodes.pop("weight_network", None)
    aggregator = cast(Aggregator | None, nodes.pop("aggregator", None))  # or somebody's own, of the same methods
    if not nodes and aggregator is None:
        raise InputError("loss", "has no term left")
    weighted = [term for term in nodes.values() if getattr(term, "uses_pair_weights", False)]
    if not weighted:
        weight_network = None  # there is nothing to weigh
    objective = Objective(nodes, aggregator=aggregator, pair_weights=_without_gradient(weight_network))
    virtual_losses = VirtualLosses(cohort, weighted) if weight_network is not None else None
    return Learners(cohort, objective, weight_network, virtual_losses)


def _build_nodes(loss: DictConfig, cohort: Cohort, num_classes: int, device: torch.device) -> dict[str, nn.Module]:
    """A module for each node of the loss but the meta event, in the order of their names."""
    for name in map(str, loss):
        if hasattr(nn.ModuleDict(), name) or "." in name:
            raise InputError(f"loss.{name}", "is a name that PyTorch's modules use themselves; choose another")
    made = {}
    for name, node in sorted((str(name), node) for name, node in loss.items()):
        if isinstance(node, DictConfig) and name != "meta_event":
            module = create(f"loss.{name}", node, widths=cohort.widths, heads=cohort.heads, num_classes=num_classes)
            if not isinstance(module, nn.Module):
                raise InputError(f"loss.{name}._target_", f"{node._target_} is no torch.nn.Module")
            _refuse_lazy(f"loss.{name}", module)
            made[name] = module.to(device)
    return made


def _refuse_lazy(key: str, module: nn.Module) -> None:
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(value):
            raise InputError(
                key, f"{name} is of a lazy layer and has no shape yet; give the layer the size of its input"
            )


def _refuse_useless(cohort: Cohort, objective: Objective, images: Tensor, batch_size: int) -> Iterable[str]:
    """A trial on blank images (2, 3, H, W), which may be too small for a network, and of an objective, which has no terms when
    all its weights are 0. A copy of the objective is tried, as terms may remember what they have seen, and on as many labels
    as a batch has. Returns the names of the losses."""
    cohort.eval()
    with torch.no_grad():
        try:
            with _taps_are_spared(cohort):
                embeddings, logits = cohort(images)
        except (RuntimeError, ValueError, AssertionError) as error:
            networks = [type(peer.network).__module__ for peer in cohort.peers.values()]
            own = [module for module in networks if not module.startswith("mcl_lab.")]
            if own or is_out_of_memory(error):  # where somebody's own breaks, the traceback tells
                raise
            size = "{}x{}".format(*images.shape[2:])
            raise InputError("pair.peers", f"a network cannot take images of {size}: {error}") from error
        batch = CohortOutput(_repeated(embeddings, batch_size), _repeated(logits, batch_size))
        labels = torch.arange(batch_size, device=images.device) // 2 % logits[0][0].shape[-1]
        trial = copy.deepcopy(objective).eval()
        trial.pair_weights = None
        terms = trial(batch, labels)
    cohort.train()
    if not terms:
        raise InputError("loss", "every term has weight 0")
    return terms


def _refuse_term_name(name: str, peers: Iterable[str]) -> None:
    """Raise InputError for what a term may not call one of its losses, as it is tracked as `train/NAME`: a name that MLflow would
    refuse or could not tell from another, or one that the run gives to a metric of its own."""
    metric = f"train/{name}"
    own = {"train/loss", "train/learning_rate", *CLOCK, *(f"train/{peer}/own_head" for peer in peers)}
    if metric in own:
        raise InputError("loss", f"a term puts out {name!r}, but the run itself records {metric}; rename it")
    parts = metric.split("/")
    if not all(re.fullmatch(r"[\w.\- ]+", part) and part.strip(".") for part in parts) or len(metric) > LONGEST_NAME:
        rule = "letters, digits, '_', '-', '.' and blanks, with single '/' between"
        raise InputError(
            "loss", f"a term puts out {name!r}, which cannot be tracked: use {rule}, at most 240 characters"
        )


@contextlib.contextmanager
def _taps_are_spared(cohort: Cohort) -> Iterator[None]:
    """Raise InputError when what is computed meanwhile writes into a tap that a branch reads."""
    taps: list[tuple[str, int, Tensor, int]] = []

    def keep(key: str, k: int, tap: Tensor) -> None:
        taps.append((key, k, tap, tap._version))

    hooks = [
        stage.register_forward_hook(lambda _module, _images, tap, key=key, k=k: keep(key, k, tap))
        for key, peer in cohort.peers.items()
        for k, stage in enumerate(peer.network.stages[: len(peer.branches)])
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for key, k, tap, version in taps:
        if tap._version != version:
            what = f"stages[{k + 1}] writes into the output of stages[{k}], which a branch reads too"
            raise InputError(f"pair.peers.{key}", f"{what}: it must begin with an operation that is not in-place")


def _repeated(of_peers: list[list[Tensor]], count: int) -> list[list[Tensor]]:
    """The first row of each tensor, `count` times."""
    return [[x[:1].repeat(count, 1) for x in stages] for stages in of_peers]


def _without_gradient(weight_network: nn.Module | None) -> Callable[[Sequence[Sequence[Tensor]]], Tensor] | None:
    """As a function, so that the objective does not take the weight network for one of its own modules."""
    if weight_network is None:
        return None

    @torch.no_grad()
    def pair_weights(embeddings: Sequence[Sequence[Tensor]]) -> Tensor:
        return weight_network(embeddings)

    return pair_weights
