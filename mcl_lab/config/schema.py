"""The fixed structure of a config: every setting that is not an argument of a class named by a `_target_`.

The annotations are read as text (values.py has the vocabulary). A field with a default may be missing.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf, open_dict

ABSENT = ""  # the default of a field that may be missing and is given no value then
CONFIG_VERSION = 1  # raised when a stored config means something else to newer code


@dataclass(kw_only=True)
class Session:
    """What a command asks for beside the run itself."""

    config_version: Annotated[int, ">= 1"]
    resume: Annotated[str, "not empty"] | None
    task: dict[str, Any]
    tracking: dict[str, Any]
    sweep: str | None = None


@dataclass(kw_only=True)
class Config(Session):
    pair: dict[str, Any]
    loss: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    data: dict[str, Any]
    seed: Annotated[int, "[0, 4294967296)"]
    trainer: dict[str, Any]


@dataclass(kw_only=True)
class Place:
    """Where the images are."""

    root: Annotated[str, "not empty"] = ABSENT  # only sets that lie in a folder have one


@dataclass(kw_only=True)
class Data(Place):
    name: Annotated[str, "not empty"]
    batch_size: Annotated[int, ">= 2"]
    validation: Annotated[float, "[0, 1)"]
    mean: Annotated[tuple[float, float, float], "[0, 1]"] | None
    std: Annotated[tuple[float, float, float], "> 0"] | None
    images: dict[str, Any]
    augmentation: dict[str, Any] | None


@dataclass(kw_only=True)
class Pair:
    peers: dict[str, dict]


@dataclass(kw_only=True)
class Network:
    """The head of a peer's node; its other keys are arguments of its class."""

    name: Annotated[str, "not empty"]


@dataclass(kw_only=True)
class Loss:
    """The head of the loss; its other keys are nodes, each a term or what a term needs, or null."""

    name: Annotated[str, "not empty"]
    branches: bool
    class_balanced: bool


@dataclass(kw_only=True)
class Computing:
    """How a run is computed."""

    device: str
    threads: Annotated[int, ">= 1"] | None
    deterministic: bool
    checkpoint_steps: Annotated[int, ">= 1"] | None
    compile: bool = False
    graphs: bool = False


@dataclass(kw_only=True)
class Trainer(Computing):
    """What is computed, and how."""

    epochs: Annotated[int, ">= 1"]
    max_steps: Annotated[int, ">= 1"] | None
    precision: Literal["float32", "tf32", "bf16"]
    channels_last: bool


@dataclass(kw_only=True)
class Tracking:
    uri: Annotated[str, "not empty"] | None
    experiment: Annotated[str, "not empty"]
    wait: Annotated[float, ">= 0"]
    models: bool = False
    system: Annotated[float, ">= 1"] | None = None


SECTIONS = {"trainer": Trainer, "tracking": Tracking, "data": Data, "pair": Pair, "loss": Loss}

# What these declare decides no numbers and is not in the run key. All else is; there a field with a default came later: its
# default means what was before, and is not in the key either.
BESIDE_THE_KEY = (Session, Place, Computing, Tracking)

# Arguments that the program hands to a class itself, by the place of its node: a config must not hold them.
_OF_LOSS = {"widths", "heads", "num_classes", "losses", "weight_network", "optimizer"}
SUPPLIED: dict[str, set[str]] = {
    "task": {"config"},
    "data.images": {"root"},
    "pair.peers.*": {"num_classes"},
    "loss.*": _OF_LOSS,
    "loss.weight_network": _OF_LOSS,
    "loss.meta_event": _OF_LOSS,
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


def declared(section: type) -> dict[str, str]:
    """The annotation of each field, as text."""
    return {field.name: str(field.type) for field in fields(section)}


def beside(section: type) -> set[str]:
    """The fields that are not in the run key."""
    return {field.name for part in BESIDE_THE_KEY if issubclass(section, part) for field in fields(part)}


def deciding(section: type) -> list[str]:
    """The fields that decide numbers."""
    return [field.name for field in fields(section) if field.name not in beside(section)]


def later(section: type) -> dict[str, object]:
    """The fields that came later to those that decide numbers, with the values that mean what was before."""
    own = deciding(section)
    return {
        field.name: field.default for field in fields(section) if field.name in own and field.default is not MISSING
    }


def add_defaults(config: DictConfig) -> DictConfig:
    """The config with the settings that have a default here: older configs and people's own files may lack them."""
    with open_dict(config):
        for name, section in SECTIONS.items():
            elsewhere = OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name)
            node = None if elsewhere else config.get(name)
            if isinstance(node, DictConfig):
                for field in fields(section):
                    if field.default not in (MISSING, ABSENT):
                        node.setdefault(field.name, field.default)
    return config
