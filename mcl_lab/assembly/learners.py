"""What learns: the cohort, its objective and the weight network. All that they refuse is an InputError."""

import copy
from dataclasses import dataclass

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from mcl_lab.assembly.target import create
from mcl_lab.errors import InputError
from mcl_lab.losses.objective import Objective
from mcl_lab.losses.virtual import VirtualLosses
from mcl_lab.networks.cohort import Cohort
from mcl_lab.networks.staged import StagedNetwork
from mcl_lab.runs.failures import is_out_of_memory


@dataclass(frozen=True)
class Learners:
    """What learns: `weight_network` and `virtual_losses` when the loss has trained layer-matching weights."""

    cohort: Cohort
    objective: Objective
    weight_network: nn.Module | None
    virtual_losses: nn.Module | None


def build_learners(
    config: DictConfig, num_classes: int, device: torch.device, image_size: tuple[int, int] = (32, 32)
) -> Learners:
    """The cohort and its objective, freshly initialised from PyTorch's random state."""
    cohort = Cohort(
        {key: build_network(config.pair.peers[key], key, num_classes) for key in sorted(config.pair.peers)},
        branches=config.loss.branches,
        autocast=torch.bfloat16 if config.trainer.precision == "bf16" else None,
    ).to(device)
    if config.trainer.channels_last:
        cohort = cohort.to(memory_format=torch.channels_last)

    for name in config.loss:
        if hasattr(nn.ModuleDict(), str(name)) or "." in str(name):
            raise InputError(f"loss.{name}", "is a name that PyTorch's modules use themselves; choose another")
    nodes = {}
    for name, node in sorted(config.loss.items()):
        if isinstance(node, DictConfig) and name != "meta_event":
            made = create(f"loss.{name}", node, widths=cohort.widths, heads=cohort.heads, num_classes=num_classes)
            if not isinstance(made, nn.Module):
                raise InputError(f"loss.{name}._target_", f"{node._target_} is no torch.nn.Module")
            nodes[str(name)] = made.to(device)
    weight_network = nodes.pop("weight_network", None)
    aggregator = nodes.pop("aggregator", None)
    if not nodes and aggregator is None:
        raise InputError("loss", "has no term left")
    weighted = [term for term in nodes.values() if getattr(term, "uses_pair_weights", False)]
    if not weighted:
        weight_network = None  # there is nothing to weigh
    objective = Objective(nodes, aggregator=aggregator, pair_weights=_without_gradient(weight_network))
    virtual_losses = VirtualLosses(cohort, weighted) if weight_network is not None else None
    _refuse_useless(cohort, objective, torch.zeros(2, 3, *image_size, device=device), config.data.batch_size)
    return Learners(cohort, objective, weight_network, virtual_losses)


def build_network(node: DictConfig, key: str, num_classes: int) -> nn.Module:
    """A peer's network from its node of the config."""
    if hasattr(nn.ModuleDict(), key):
        raise InputError(f"pair.peers.{key}", "is a name that PyTorch's modules use themselves; choose another")
    arguments = OmegaConf.masked_copy(node, [name for name in node if name != "name"])
    network = create(f"pair.peers.{key}", arguments, num_classes=num_classes)
    if not isinstance(network, StagedNetwork):
        raise InputError(f"pair.peers.{key}._target_", f"{node._target_} is no StagedNetwork (mcl_lab.networks.staged)")
    return network


def _refuse_useless(cohort: Cohort, objective: Objective, images: Tensor, batch_size: int) -> None:
    """A trial on blank images (2, 3, H, W), which may be too small for a network, and of an objective, which has no terms when
    all its weights are 0. A copy of the objective is tried, as terms may remember what they have seen, and on as many labels
    as a batch has."""
    cohort.eval()
    with torch.no_grad():
        try:
            output = cohort(images)
        except (RuntimeError, ValueError) as error:
            own = [
                peer.network
                for peer in cohort.peers.values()
                if not type(peer.network).__module__.startswith("mcl_lab.")
            ]
            if own or is_out_of_memory(error):  # where somebody's own breaks, the traceback tells
                raise
            size = "{}x{}".format(*images.shape[2:])
            raise InputError("pair.peers", f"a network cannot take images of {size}: {error}") from error
        output = type(output)(
            *([[x[:1].repeat(batch_size, 1) for x in stages] for stages in peers] for peers in output)
        )
        labels = torch.arange(batch_size, device=images.device) // 2 % output.logits[0][0].shape[-1]
        trial = copy.deepcopy(objective).eval()
        trial.pair_weights = None
        terms = trial(output, labels)
    cohort.train()
    if not terms:
        raise InputError("loss", "every term has weight 0")


def _without_gradient(weight_network: nn.Module | None):
    """As a function, so that the objective does not take the weight network for one of its own modules."""
    if weight_network is None:
        return None

    @torch.no_grad()
    def pair_weights(embeddings):
        return weight_network(embeddings)

    return pair_weights
