"""The fixed structure of a config: every setting that is not an argument of a class named by a `_target_`.

The annotations are read as text (values.py has the vocabulary). A field with a default may be missing.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf, open_dict

CONFIG_VERSION = 1  # raised when a stored config means something else to newer code


@dataclass
class Config:
    config_version: Annotated[int, ">= 1"]
    seed: Annotated[int, "[0, 4294967296)"]
    resume: Annotated[str, "not empty"] | None
    task: dict[str, Any]
    data: dict[str, Any]
    pair: dict[str, Any]
    loss: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    trainer: dict[str, Any]
    tracking: dict[str, Any]
    sweep: str | None = None


@dataclass
class Data:
    name: Annotated[str, "not empty"]
    batch_size: Annotated[int, ">= 2"]
    validation: Annotated[float, "[0, 1)"]
    mean: Annotated[tuple[float, float, float], "[0, 1]"] | None
    std: Annotated[tuple[float, float, float], "> 0"] | None
    images: dict[str, Any]
    augmentation: dict[str, Any] | None
    root: Annotated[str, "not empty"] = ""  # only sets that lie in a folder have one


@dataclass
class Pair:
    peers: dict[str, dict]


@dataclass
class Network:
    """The head of a peer's node; its other keys are arguments of its class."""

    name: Annotated[str, "not empty"]


@dataclass
class Loss:
    """The head of the loss; its other keys are nodes, each a term or what a term needs, or null."""

    name: Annotated[str, "not empty"]
    branches: bool
    class_balanced: bool


@dataclass
class Trainer:
    device: str
    precision: Literal["float32", "tf32", "bf16"]
    epochs: Annotated[int, ">= 1"]
    max_steps: Annotated[int, ">= 1"] | None
    threads: Annotated[int, ">= 1"] | None
    channels_last: bool
    deterministic: bool
    checkpoint_steps: Annotated[int, ">= 1"] | None
    compile: bool = False
    graphs: bool = False


@dataclass
class Tracking:
    uri: Annotated[str, "not empty"] | None
    experiment: Annotated[str, "not empty"]
    wait: Annotated[float, ">= 0"]
    models: bool = False
    system: Annotated[float, ">= 1"] | None = None


SECTIONS = {"trainer": Trainer, "tracking": Tracking, "data": Data, "pair": Pair, "loss": Loss}

# Arguments that the program hands to a class itself, by the place of its node: a config must not hold them.
SUPPLIED = {
    "task": {"config"},
    "data.images": {"root"},
    "pair.peers.*": {"num_classes"},
    "loss.*": {"widths", "heads", "num_classes", "losses", "weight_network", "optimizer"},
    "optimizer": {"params"},
    "schedule": {"optimizer", "epochs"},
}

# Ranges of arguments whose class does not state them in its signature.
RANGES = {
    "optimizer.lr": "> 0",
    "optimizer.momentum": "[0, 1)",
    "optimizer.dampening": "[0, 1]",
    "optimizer.weight_decay": ">= 0",
    "optimizer.betas": "[0, 1)",
    "optimizer.eps": "> 0",
    "optimizer.alpha": "[0, 1)",
}


def add_defaults(config: DictConfig) -> DictConfig:
    """The config with the settings of trainer and tracking that have a default here: older configs and people's own files may
    lack them."""
    with open_dict(config):
        for name in ("trainer", "tracking"):
            elsewhere = OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name)
            node = None if elsewhere else config.get(name)
            for field in fields(SECTIONS[name]) if isinstance(node, DictConfig) else ():
                if field.default is not MISSING:
                    node.setdefault(field.name, field.default)
    return config
