"""Classifiers of torchvision as networks with stages."""

import contextlib
import copy
import functools
import itertools
import warnings
from collections.abc import Sequence

import torch
import torchvision
from torch import nn

from mcl_lab.networks.branches import Branch
from mcl_lab.networks.staged import StagedNetwork
from mcl_lab.networks.torchvision_steps import Steps

OFFERED = {"pair.peers.*": ["TorchvisionBackbone"]}  # to configs, by place


class TorchvisionBackbone(StagedNetwork):
    """A classifier of torchvision, untrained, put together anew from its steps; docs/torchvision.md names those of each.

    model: its name in torchvision.models. stem, stages, neck: names of its children, dotted ones too (`features.3`), and
    of the functions that its `forward` calls between them (`relu`), to be called one after the other; each stage is a
    list of them. What is named nowhere is left out: its pooling and classifier, whose place ours take, or a max-pool
    that small images do without.
    Raises ValueError when there is no such model or step, and when the parts do not fit together.
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
        parts, difference = build()
        whole = f"stem, stages and neck of {model}"
        on_paper = copy.deepcopy(nn.Sequential(*parts)).to("meta").eval()
        try:
            features = on_paper(torch.empty(1, 3, 224, 224, device="meta"))  # the size that most models are made for
        except Exception as error:  # of any kind: layers assert what they are given
            raise ValueError(difference or f"{whole} do not fit together: {error}") from error
        width = features.shape[1]
        with contextlib.suppress(Exception):  # models that are made for no other size
            if on_paper(torch.empty(1, 3, 256, 256, device="meta")).shape[1] != width:
                difference = difference or f"{whole} must end in a feature map with its channels first"
        super().__init__(parts[0], parts[1:-1], parts[-1], width=width, num_classes=num_classes)
        self.build, self.difference = build, difference

    def initialise(self, module: nn.Module) -> None:
        if not isinstance(module, Branch):  # torchvision has done it
            return
        branch = [*module.stages, module.neck]
        fresh_parts, _ = self.build()
        for part, fresh in zip(branch, fresh_parts[-len(branch) :], strict=True):
            part.load_state_dict(fresh.state_dict())

    def check(self) -> None:
        """Raises ValueError when the steps do otherwise than the model up to its pooling and classifier."""
        if self.difference:
            raise ValueError(self.difference)


def _build(model: str, parts: Sequence[Sequence[str]]) -> tuple[list[nn.Module], str | None]:
    """The named steps of a new model, each part a module, and what the model does that they do not."""
    with warnings.catch_warnings():  # two models' initial values may change in a later version
        warnings.simplefilter("ignore", FutureWarning)
        network = torchvision.models.get_model(model, weights=None)
    names = list(itertools.chain(*parts))
    try:
        steps = Steps(network, names)
        modules: list[nn.Module] = [nn.Sequential(*map(steps.module, part)) for part in parts]
    except ValueError as error:
        raise ValueError(f"{model} {error}") from error
    difference = steps.difference(names)
    return modules, difference and f"{model} {difference}"
