"""A meta event tried before training, of networks, terms and weight networks that are not ours."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mcl_lab.assembly.learners import Learners
from mcl_lab.errors import InputError
from mcl_lab.meta.check import Call, Culprit, calls_of, find_culprit, in_float64
from mcl_lab.meta.event import MetaEvent
from mcl_lab.meta.second_derivatives import Product, double_backward, forward_over_reverse
from mcl_lab.runs.failures import is_out_of_memory

IMAGES = 4  # two each of two classes: each has a positive, and statistics of BatchNorm are of several


def try_meta_event(event: MetaEvent, learners: Learners, image_size: Sequence[int], *, channels_last: bool) -> None:
    """Nobody knows the second derivatives of what is not ours: have the event take them in a way that gives right ones.

    Tried on a few images of noise of that height and width. Raises InputError where no way does, with the innermost module
    that is to blame.
    """
    own = _not_ours(learners)
    if not own:
        return
    first, *_ = learners.cohort.peers.values()
    device = first.network.classifier.weight.device
    images = torch.rand(IMAGES, 3, *image_size, generator=torch.Generator().manual_seed(0)).to(device)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(IMAGES, device=device) // 2 % first.network.num_classes
    calls = _calls(learners, images, labels, own)

    event.along = forward_over_reverse
    if _error(event, images, labels) is None and _blame(own, calls, event.along) is None:
        return
    event.along = double_backward
    error, blamed = _error(event, images, labels), _blame(own, calls, event.along)
    if blamed is not None:
        key, (name, part, fault) = blamed
        where = f"{name} ({type(part).__name__})" if name else type(part).__name__
        remedy = "which a meta event needs; loss=lmcl_uniform trains without meta events"
        raise InputError(key, f"{where}: {fault}, {remedy}") from error
    if error is not None:  # where somebody's own breaks, the traceback tells
        raise error


def _not_ours(learners: Learners) -> dict[str, nn.Module]:
    """By their keys in a config."""
    peers = {f"pair.peers.{key}": (peer, peer.network) for key, peer in learners.cohort.peers.items()}
    terms = {f"loss.{name}": (term, term) for name, term in learners.objective.terms.items()}
    others = {"loss.weight_network": (learners.weight_network, learners.weight_network)}
    return {
        key: module
        for key, (module, named) in (peers | terms | others).items()
        if module is not None and not type(named).__module__.startswith("mcl_lab.")
    }


def _calls(learners: Learners, images: Tensor, labels: Tensor, own: dict[str, nn.Module]) -> dict[nn.Module, Call]:
    """How each of `own` is called by the losses of virtual steps."""
    losses, network = learners.virtual_losses, learners.weight_network
    assert losses is not None and network is not None, "there is a meta event"

    def weights(embeddings: Sequence[Sequence[Tensor]]) -> Tensor:
        return in_float64(network, ((embeddings,), {}))

    return calls_of(own.values(), lambda: in_float64(losses, ((images, labels, weights), {})))


def _error(event: MetaEvent, images: Tensor, labels: Tensor) -> RuntimeError | None:
    """Of an event, but for want of memory."""
    try:
        event.hypergradient(images, labels, lr=0.01)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return error
    return None


def _blame(own: dict[str, nn.Module], calls: dict[nn.Module, Call], along: Product) -> tuple[str, Culprit] | None:
    for key, module in own.items():
        if module in calls and (found := find_culprit(module, calls[module], along)):
            return key, found
    return None
