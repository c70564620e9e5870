"""Classifiers of torchvision as networks with stages."""

import copy
import functools
from collections.abc import Sequence

import torch
import torchvision
from torch import nn

from mcl_lab.networks.branches import Branch
from mcl_lab.networks.staged import StagedNetwork

OFFERED = {"pair.peers.*": ["TorchvisionBackbone"]}  # to configs, by place


class TorchvisionBackbone(StagedNetwork):
    """A classifier of torchvision, untrained, put together anew from some of its children.

    model: its name in torchvision.models. stem, stages, neck: names of its children, dotted ones too (`features.3`), to
    be called one after the other; each stage is a list of them. What is named nowhere is left out: its pooling and
    classifier, whose place ours take, or a max-pool that small images do without. What the model's `forward` does
    between its children is not repeated.
    Raises ValueError when there is no such model or child, and when the parts do not fit together.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        model: str,
        stem: Sequence[str],
        stages: Sequence[Sequence[str]],
        neck: Sequence[str] = (),
    ):
        if model not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(f"torchvision.models has no classifier {model!r}")
        build = functools.partial(_build, model, [stem, *stages, neck])
        parts = build()
        width = _width(model, parts)
        super().__init__(parts[0], parts[1:-1], parts[-1], width=width, num_classes=num_classes)
        self.build = build

    def initialise(self, module: nn.Module) -> None:
        if not isinstance(module, Branch):  # torchvision has done it
            return
        branch = [*module.stages, module.neck]
        for part, fresh in zip(branch, self.build()[-len(branch) :], strict=True):
            part.load_state_dict(fresh.state_dict())


def _build(model: str, parts: Sequence[Sequence[str]]) -> list[nn.Module]:
    """The named children of a new model, each part a module."""
    network = torchvision.models.get_model(model, weights=None)
    return [nn.Sequential(*(_child(network, model, name) for name in part)) for part in parts]


def _child(network: nn.Module, model: str, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        known = ", ".join(child for child, _ in network.named_children())
        raise ValueError(f"{model} has no child {name!r}; its own are {known}") from None


def _width(model: str, parts: list[nn.Module]) -> int:
    """Channels after the last part, found on paper for an image of the size that torchvision's models are made for."""
    on_paper = copy.deepcopy(nn.Sequential(*parts)).to("meta").eval()
    try:
        features = on_paper(torch.empty(1, 3, 224, 224, device="meta"))
    except RuntimeError as error:
        raise ValueError(f"stem, stages and neck of {model} do not fit together: {error}") from error
    if features.dim() != 4:
        axes = features.dim() - 1
        raise ValueError(f"stem, stages and neck of {model} must end in a feature map of 3 axes, not {axes}")
    return features.shape[1]
