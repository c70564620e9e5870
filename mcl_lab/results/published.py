"""Published CIFAR-100 accuracies (top-1, %) to set ours beside.

Sources: the L-MCL authors' README (winycg/L-MCL, the two tables of TPAMI 2023, arXiv 2207.11518); for other online methods
winycg/MCL (MCL, AAAI 2022, mean of three runs) and winycg/MCL-OKD (the other four). Baselines are each source's own.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """Of one network in a row: it alone, and trained by the method."""

    baseline: float
    accuracy: float


class PublishedRow(NamedTuple):
    """A row of the L-MCL tables."""

    networks: tuple[str, ...]  # one of a homogeneous pair, two of a heterogeneous one; names of conf/network
    accuracies: tuple[Published, ...]  # of each


TITLES = {
    "resnet32": "ResNet-32",
    "resnet56": "ResNet-56",
    "resnet110": "ResNet-110",
    "wrn_16_2": "WRN-16-2",
    "wrn_40_2": "WRN-40-2",
    "wrn_28_4": "WRN-28-4",
    "shufflenetv2_05x": "ShuffleNetV2 0.5x",
    "shufflenetv2_1x": "ShuffleNetV2 1x",
    "hcgnet_a1": "HCGNet-A1",
    "hcgnet_a2": "HCGNet-A2",
}

BASELINES = {
    "resnet32": 70.91,
    "resnet56": 73.15,
    "resnet110": 75.29,
    "wrn_16_2": 72.55,
    "wrn_40_2": 76.89,
    "wrn_28_4": 79.17,
    "shufflenetv2_05x": 67.39,
    "shufflenetv2_1x": 70.93,
    "hcgnet_a1": 77.42,
    "hcgnet_a2": 79.00,
}


def _row(**accuracies: float) -> PublishedRow:
    return PublishedRow(
        tuple(accuracies), tuple(Published(BASELINES[name], value) for name, value in accuracies.items())
    )


HOMOGENEOUS = (
    _row(resnet32=75.82),
    _row(resnet56=77.51),
    _row(resnet110=79.48),
    _row(wrn_16_2=77.31),
    _row(wrn_40_2=80.96),
    _row(shufflenetv2_05x=72.61),
    _row(shufflenetv2_1x=77.25),
    _row(hcgnet_a1=81.66),
    _row(hcgnet_a2=83.14),
)

HETEROGENEOUS = (
    _row(resnet32=75.82, resnet110=79.71),
    _row(resnet56=77.04, resnet110=79.56),
    _row(wrn_16_2=76.88, wrn_40_2=80.24),
    _row(wrn_40_2=80.42, wrn_28_4=82.61),
    _row(resnet56=77.54, wrn_40_2=80.72),
    _row(resnet110=80.02, wrn_28_4=82.84),
    _row(shufflenetv2_1x=76.85, resnet110=79.17),
    _row(shufflenetv2_1x=77.06, wrn_40_2=80.29),
)


class Method(NamedTuple):
    """Another online method on a network: `peers` of them trained together, None where they are branches of one."""

    network: str
    title: str
    loss: str | None  # the option of conf/loss, None when there is none
    peers: int | None
    accuracies: Published


METHODS = (
    Method("resnet32", "DML", "dml", 2, Published(71.09, 75.08)),
    Method("resnet32", "CL-ILR", None, None, Published(71.09, 74.60)),
    Method("resnet32", "ONE", None, None, Published(71.09, 74.26)),
    Method("resnet32", "OKDDip", None, None, Published(71.09, 74.24)),
    Method("resnet110", "DML", "dml", 2, Published(76.38, 78.49)),
    Method("resnet110", "CL-ILR", None, None, Published(76.38, 78.84)),
    Method("resnet110", "ONE", None, None, Published(76.38, 77.81)),
    Method("resnet110", "OKDDip", None, None, Published(76.38, 78.95)),
    Method("resnet32", "MCL, 2 peers", "mcl", 2, Published(BASELINES["resnet32"], 72.96)),
    Method("resnet32", "MCL, 4 peers", "mcl", 4, Published(BASELINES["resnet32"], 74.04)),
    Method("resnet56", "MCL, 2 peers", "mcl", 2, Published(BASELINES["resnet56"], 74.48)),
    Method("resnet56", "MCL, 4 peers", "mcl", 4, Published(BASELINES["resnet56"], 75.74)),
    Method("resnet110", "MCL, 2 peers", "mcl", 2, Published(BASELINES["resnet110"], 77.12)),
    Method("resnet110", "MCL, 4 peers", "mcl", 4, Published(BASELINES["resnet110"], 78.82)),
    Method("wrn_16_2", "MCL, 2 peers", "mcl", 2, Published(BASELINES["wrn_16_2"], 74.56)),
    Method("wrn_16_2", "MCL, 4 peers", "mcl", 4, Published(BASELINES["wrn_16_2"], 75.79)),
    Method("wrn_40_2", "MCL, 2 peers", "mcl", 2, Published(BASELINES["wrn_40_2"], 77.51)),
    Method("wrn_40_2", "MCL, 4 peers", "mcl", 4, Published(BASELINES["wrn_40_2"], 78.84)),
    Method("shufflenetv2_05x", "MCL, 2 peers", "mcl", 2, Published(BASELINES["shufflenetv2_05x"], 69.55)),
    Method("shufflenetv2_05x", "MCL, 4 peers", "mcl", 4, Published(BASELINES["shufflenetv2_05x"], 70.92)),
    Method("shufflenetv2_1x", "MCL, 2 peers", "mcl", 2, Published(BASELINES["shufflenetv2_1x"], 73.26)),
    Method("shufflenetv2_1x", "MCL, 4 peers", "mcl", 4, Published(BASELINES["shufflenetv2_1x"], 75.18)),
    Method("hcgnet_a1", "MCL, 2 peers", "mcl", 2, Published(BASELINES["hcgnet_a1"], 78.62)),
    Method("hcgnet_a1", "MCL, 4 peers", "mcl", 4, Published(BASELINES["hcgnet_a1"], 79.50)),
)

PAPER = {  # the recipe of all that: leaves of a config
    "data.batch_size": 128,
    "data.validation": 0,
    "data.augmentation._target_": "mcl_lab.data.augmentation.CropFlip",
    "data.augmentation.padding": 4,
    "data.augmentation.flip": True,
    "optimizer._target_": "torch.optim.SGD",
    "optimizer.lr": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 0.0005,
    "schedule._target_": "mcl_lab.training.schedules.Cosine",
    "schedule.warmup_epochs": 0,
    "trainer.epochs": 300,
    "trainer.max_steps": None,
    "trainer.precision": "float32",
}

CIFAR100 = "mcl_lab.data.datasets.cifar100"  # `data.images._target_` of the data set


def title(network: str) -> str:
    """A network's name as it is published, its own where it is not."""
    return TITLES.get(network, network)


def is_paper_data(recipe: Mapping[str, object]) -> bool:
    """Whether a recipe (leaves of a config) is for CIFAR-100."""
    return recipe.get("data.images._target_") == CIFAR100


def row_of(networks: Iterable[str]) -> PublishedRow | None:
    """The row of a pair, whichever of its two peers comes first."""
    wanted = sorted(networks)
    for row in (*HOMOGENEOUS, *HETEROGENEOUS):
        if sorted(row.networks * (2 // len(row.networks))) == wanted:
            return row
    return None
