"""docs/torchvision.md: the parts by which each of torchvision's classifiers becomes a network, each built and compared.

python tests/networks/torchvision_table.py > docs/torchvision.md
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn

from mcl_lab.networks.torchvision_backbone import TorchvisionBackbone

COMMAND = "python tests/networks/torchvision_table.py > docs/torchvision.md"
SIZES = (8, 16, 32, 64, 96, 128, 224)  # of images that are tried
TOP = f"""\
<!-- Made by `{COMMAND}`. -->

# Torchvision's classifiers

A classifier of torchvision that is a chain of steps becomes a network by a YAML file alone: a copy of
[torchvision_resnet18.yaml](../conf/network/torchvision_resnet18.yaml) with its name as `model` and the parts below. With them it
computes what torchvision's does up to its classifier, whose place another takes.

The parts name children of the model and functions that its `forward` calls between them (`relu`). They may be cut into other
stages, end earlier, and leave out max-pools, which small images do without. Whatever else the model does on the way must be
named: training is refused without it, in a line that names what is missing. Hidden layers of a classifier may be named as well
(`neck: [avgpool, flatten, classifier.0, classifier.1]` of alexnet, vgg, mobilenet_v3).

The last column is the smallest image, of {", ".join(map(str, SIZES))} pixels a side, that these parts take with all max-pools.

| classifiers | parts, or why there are none | image |
|---|---|---|
"""


class Parts(NamedTuple):
    """Of all models whose names match. classifier: the child whose place ours takes."""

    models: str
    stem: list[str]
    stages: list[list[str]]
    neck: list[str] | tuple[()] = ()
    classifier: str = "classifier"


def span(prefix: str, first: int, last: int) -> list[str]:
    return [f"{prefix}.{k}" for k in range(first, last + 1)]


def cut(prefix: str, *firsts: int) -> list[list[str]]:
    """A chain of children in pieces that begin with these; the last number is that of none of them."""
    return [span(prefix, first, end - 1) for first, end in pairwise(firsts)]


FAMILIES = [
    Parts(
        "alexnet", span("features", 0, 1), cut("features", 2, 5, 8, 10, 13),
    ),
    Parts(
        "convnext_.*", ["features.0"], cut("features", 1, 2, 4, 6, 8), ["avgpool", "classifier.0"], "classifier.2",
    ),
    Parts(
        "densenet.*", [f"features.{name}0" for name in ("conv", "norm", "relu", "pool")],
        [
            ["features.denseblock1"],
            *([f"features.transition{k}", f"features.denseblock{k + 1}"] for k in (1, 2, 3)),
        ],
        ["features.norm5", "relu"],
    ),
    Parts("efficientnet_(b.|v2_[ml])", ["features.0"], cut("features", 1, 2, 3, 4, 6, 8), ["features.8"]),
    Parts("efficientnet_v2_s", ["features.0"], cut("features", 1, 2, 3, 4, 6, 7), ["features.7"]),
    Parts(
        "googlenet", ["conv1", "maxpool1", "conv2", "conv3"],
        [
            ["maxpool2", "inception3a", "inception3b"],
            ["maxpool3", *(f"inception4{k}" for k in "abcde")],
            ["maxpool4", "inception5a", "inception5b"],
        ],
        classifier="fc",
    ),
    Parts(
        "inception_v3",
        [*(f"Conv2d_{k}_3x3" for k in ("1a", "2a", "2b")), "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3"],
        [
            ["maxpool2", *(f"Mixed_5{k}" for k in "bcd")],
            [f"Mixed_6{k}" for k in "abcde"],
            [f"Mixed_7{k}" for k in "abc"],
        ],
        classifier="fc",
    ),
    Parts(
        "maxvit_t", ["stem"], cut("blocks", 0, 1, 2, 3, 4), span("classifier", 0, 4), "classifier.5",
    ),
    Parts("mnasnet.*", span("layers", 0, 7), cut("layers", 8, 9, 10, 12, 14), span("layers", 14, 16)),
    Parts("mobilenet_v2", ["features.0"], cut("features", 1, 2, 4, 7, 14, 18), ["features.18"]),
    Parts(
        "mobilenet_v3_large", ["features.0"], cut("features", 1, 2, 4, 7, 13, 16), ["features.16"],
    ),
    Parts(
        "mobilenet_v3_small", ["features.0"], cut("features", 1, 2, 4, 9, 12), ["features.12"],
    ),
    Parts("regnet_.*", ["stem"], [[f"trunk_output.block{k}"] for k in (1, 2, 3, 4)], classifier="fc"),
    Parts(
        "(wide_)?res(net|next).*", ["conv1", "bn1", "relu", "maxpool"], [[f"layer{k}"] for k in (1, 2, 3, 4)],
        classifier="fc",
    ),
    Parts("shufflenet.*", ["conv1", "maxpool"], [[f"stage{k}"] for k in (2, 3, 4)], ["conv5"], "fc"),
    Parts("squeezenet1_0", span("features", 0, 2), cut("features", 3, 6, 11, 13)),
    Parts("squeezenet1_1", span("features", 0, 2), cut("features", 3, 5, 8, 13)),
    Parts("swin_.*", ["features.0"], cut("features", 1, 2, 4, 6, 8), ["norm", "permute"], "head"),
    Parts("vgg11", span("features", 0, 2), cut("features", 3, 6, 11, 16, 21)),
    Parts("vgg11_bn", span("features", 0, 3), cut("features", 4, 8, 15, 22, 29)),
    Parts("vgg13", span("features", 0, 4), cut("features", 5, 10, 15, 20, 25)),
    Parts("vgg13_bn", span("features", 0, 6), cut("features", 7, 14, 21, 28, 35)),
    Parts("vgg16", span("features", 0, 4), cut("features", 5, 10, 17, 24, 31)),
    Parts("vgg16_bn", span("features", 0, 6), cut("features", 7, 14, 24, 34, 44)),
    Parts("vgg19", span("features", 0, 4), cut("features", 5, 10, 19, 28, 37)),
    Parts("vgg19_bn", span("features", 0, 6), cut("features", 7, 14, 27, 40, 53)),
    Parts("vit_.*", ["conv_proj"], [["encoder"]]),
]  # fmt: skip


@contextmanager
def no_values() -> Iterator[None]:
    """Large models are made in no time: their parameters keep what memory held."""
    given = {name: function for name, function in vars(nn.init).items() if name.endswith("_") and callable(function)}
    try:
        for name in given:
            setattr(nn.init, name, lambda tensor, *_args, **_options: tensor)
        yield
    finally:
        for name, function in given.items():
            setattr(nn.init, name, function)


def models_of(family: Parts) -> list[str]:
    known = torchvision.models.list_models(module=torchvision.models)
    return [model for model in known if re.fullmatch(family.models, model)]


def arguments(family: Parts) -> dict[str, Any]:
    return {"stem": family.stem, "stages": family.stages, "neck": list(family.neck)}


def table() -> str:
    """The text of docs/torchvision.md. Raises StopIteration for a classifier that is of no family."""
    families = {
        model: next(family for family in FAMILIES if re.fullmatch(family.models, model))
        for model in torchvision.models.list_models(module=torchvision.models)
    }
    rows: dict[tuple[str, str], list[str]] = {}
    for model, family in families.items():
        rows.setdefault(_row(model, family), []).append(model)
    return TOP + "".join(f"| {', '.join(models)} | {' | '.join(row)} |\n" for row, models in rows.items())


def _row(model: str, family: Parts) -> tuple[str, str]:
    """What makes a network of a model, and the smallest image; else what is said when one is made, without the model's name."""
    try:
        with no_values():
            network = TorchvisionBackbone(10, model=model, **arguments(family))
        network.check()
    except ValueError as error:
        return str(error).replace(f"{model} also", "none: it"), ""
    parts = {name: str(value).replace("'", "") for name, value in arguments(family).items()}
    return "<br>".join(f"`{name}: {value}`" for name, value in parts.items()), str(_smallest(network))


def _smallest(network: nn.Module) -> int:
    on_paper = network.to("meta").eval()
    for size in SIZES:
        with suppress(Exception):
            on_paper(torch.empty(2, 3, size, size, device="meta"))
            return size
    raise ValueError("no image is large enough")


if __name__ == "__main__":
    print(table(), end="")
