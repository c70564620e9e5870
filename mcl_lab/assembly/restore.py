"""A run that was trained, as the tasks find it that take it up: its config, its networks, what they were trained on."""

import math
import os
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from mcl_lab.assembly.data import DataFacts, checksum, left_out_warning, parts_of, read_images, remarks
from mcl_lab.assembly.learners import build_network
from mcl_lab.config.compose import overrides, parse
from mcl_lab.config.stored import read_config
from mcl_lab.data.datasets import ImageSet, Splits
from mcl_lab.errors import InputError
from mcl_lab.host.screen import say
from mcl_lab.networks.portable import PortableNetwork
from mcl_lab.networks.staged import StagedNetwork
from mcl_lab.runs.checkpoints import UnusableCheckpoint, newest_file, read
from mcl_lab.runs.layout import RunFolder


class Trained(NamedTuple):
    """A run and one of its states."""

    path: Path  # as it was named
    folder: Path  # of the run
    config: DictConfig
    facts: DataFacts  # of the images that it was trained on
    state: dict  # of the checkpoint, of which only facts are checked


def read_trained(checkpoint: str | Path) -> Trained:
    """The run of a run folder, whose finished networks or newest checkpoint are taken, or of a checkpoint file in one.

    Raises InputError("task.checkpoint").
    """
    path = Path(checkpoint)
    if not os.path.exists(path):
        raise InputError("task.checkpoint", f"there is no {path}")
    folder = path if path.is_dir() else path.absolute().parent.parent
    run = read_config(folder, "task.checkpoint")
    try:
        state = read(newest_file(RunFolder(path).checkpoints) if path.is_dir() else path)
    except UnusableCheckpoint as error:
        raise InputError("task.checkpoint", str(error)) from error
    return Trained(path, folder, run, _facts_in(state, path), state)


def restore(trained: Trained, part: str, module: nn.Module, below: str = "") -> None:
    """Give `module` the trained weights of a part of the state, or of what is `below` a name in it (`peers.a.network`).

    Raises InputError("task.checkpoint") for a state that does not hold them.
    """
    try:
        state = trained.state["parts"][part]
        if below:
            state = {name.removeprefix(f"{below}."): v for name, v in state.items() if name.startswith(f"{below}.")}
        module.load_state_dict(state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            "task.checkpoint",
            f"{trained.path} does not hold the networks of {RunFolder(trained.folder).config}: {error}",
        ) from error


def networks_of(trained: Trained, peer: str | None) -> dict[str, PortableNetwork]:
    """The networks of all peers, or of one, by its key: without branches, float32, on the CPU, in eval mode.

    Raises InputError: "task.peer" when there is no such peer.
    """
    peers = sorted(trained.config.pair.peers)
    if peer is not None and peer not in peers:
        raise InputError("task.peer", f"{trained.folder} has no peer {peer}; it has {', '.join(peers)}")
    found = {}
    for key in peers if peer is None else [peer]:
        network = untrained(trained.config.pair.peers[key], key, len(trained.facts.classes))
        restore(trained, "cohort", network, f"peers.{key}.network")
        facts = trained.facts
        found[key] = PortableNetwork(network, classes=facts.classes, mean=facts.mean, std=facts.std).eval()
    return found


def untrained(node: DictConfig, key: str, num_classes: int) -> StagedNetwork:
    """`build_network` for other weights than its own: PyTorch's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return build_network(node, key, num_classes, trained=True)


def data_of(trained: Trained, config: DictConfig) -> DictConfig:
    """The data set that the command line names (`data=...`), else the run's own, with single values of the command
    line: `data.root=...`."""
    if names_data(config):
        return config.data
    data = trained.config.data.copy()
    for override in parse(overrides(config)):
        if override.key_or_group.startswith("data."):
            OmegaConf.update(data, override.key_or_group.removeprefix("data."), override.value())
    return data


def tell_other_images(trained: Trained, config: DictConfig, splits: Splits) -> None:
    """Say so when the images are to be the run's own and are not: those in a folder may have changed since."""
    if names_data(config) or trained.facts.test_checksum is None:
        return
    _, evaluated = parts_of(splits, trained.config.data.validation)
    if checksum(*evaluated.values()) != trained.facts.test_checksum:
        say(
            f"these are not the images that {trained.folder} was evaluated on: they have changed since, or were told otherwise"
        )


def names_data(config: DictConfig) -> bool:
    """Whether the command line names a data set."""
    return any(override.key_or_group in ("data", "experiment") for override in parse(overrides(config)))


def test_images(trained: Trained, config: DictConfig) -> tuple[DictConfig, ImageSet]:
    """`data_of` and its test images. Raises InputError, also when they are not of the classes of the training."""
    data = data_of(trained, config)
    splits = read_images(data)
    images = splits.test
    for line in [*left_out_warning("test", images), *remarks("test", images)]:
        say(line)
    tell_other_images(trained, config, splits)
    if images.classes != trained.facts.classes:
        of = f"{data.name} does not have the classes of {trained.config.data.name}"
        raise InputError("data", f"{of}, on which the networks were trained")
    return data, images


def _facts_in(state: dict, path: Path) -> DataFacts:
    """What the networks were trained on. Raises InputError for a file that does not say it."""
    try:
        facts = DataFacts(**state["data"])
        texts = [*facts.classes, facts.checksum]
        mean, std = tuple(map(float, facts.mean)), tuple(map(float, facts.std))
        if not all(isinstance(text, str) for text in texts) or len(mean) != 3 or len(std) != 3 or not facts.classes:
            raise ValueError("its data are of other types")
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError("no image can be normalised by its mean and std")
        return facts._replace(classes=tuple(facts.classes), mean=mean, std=std)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("task.checkpoint", f"{path} does not tell what it was trained on: {error}") from error
