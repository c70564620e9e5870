"""task=evaluate: score the networks of a run on a data set."""

import json
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from mcl_lab.config.compose import overrides, parse
from mcl_lab.config.stored import read_config
from mcl_lab.errors import InputError
from mcl_lab.tasks import build
from mcl_lab.training.checkpoints import newest_file, read
from mcl_lab.training.evaluation import evaluate as accuracies_of


def evaluate(config: DictConfig, *, checkpoint: str, format: Literal["table", "json"] = "table") -> None:
    """Print top-1 and top-5 accuracies (%) of every head and ensemble on the test images.

    checkpoint: a run folder, whose finished networks or newest checkpoint are taken, or a checkpoint file in one.
    The data set is the run's own, unless the command line names another (`data=...`); its images are normalised as the run's
    training images were. Raises InputError.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise InputError("task.checkpoint", f"there is no {path}")
    folder = path if path.is_dir() else path.absolute().parent.parent
    run = read_config(folder, "task.checkpoint")
    state = read(newest_file(path / "checkpoints") if path.is_dir() else path)
    facts = build.DataFacts(**state["data"])
    run.trainer = config.trainer
    device = build.use_device(run.trainer)
    learners = build.build_learners(run, len(facts.classes), device)
    for name, part in (("cohort", learners.cohort), ("objective", learners.objective)):
        part.load_state_dict(state["parts"][name])

    data = config.data if _names_data(config) else _own_data(run, config)
    images = build.read_images(data).test.to(device)
    if images.classes != facts.classes:
        raise InputError("data", f"{data.name} does not have the classes of {run.data.name}, on which the networks were trained")
    batches = build.evaluation_batches(images, facts, run)
    accuracies = accuracies_of(learners.cohort, learners.objective.ensembles, batches)
    if format == "json":
        print(json.dumps({"dataset": data.name, "images": len(images), **accuracies}, indent=2))
    else:
        networks = {key: run.pair.peers[key].name for key in learners.cohort.peers}
        Console().print(_table(accuracies, networks, f"Test accuracy (%) on {data.name}, {len(images):,} images"))


def _names_data(config: DictConfig) -> bool:
    return any(override.key_or_group in ("data", "experiment") for override in parse(overrides(config)))


def _own_data(run: DictConfig, config: DictConfig) -> DictConfig:
    """The data of the run, with single values of the command line: `data.root=...`."""
    data = run.data
    for override in parse(overrides(config)):
        if override.key_or_group.startswith("data."):
            OmegaConf.update(data, override.key_or_group.removeprefix("data."), override.value())
    return data


def _table(accuracies: dict, networks: dict[str, str], title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("peer", "head"):
        table.add_column(name)
    for name in ("top-1", "top-5"):
        table.add_column(name, justify="right")
    for peer, heads in accuracies["top1"].items():
        for head, top1 in heads.items():
            bold = "bold" if head == "own_head" else None
            table.add_row(f"{peer}: {networks[peer]}", head, f"{top1:.2f}", f"{accuracies['top5'][peer][head]:.2f}", style=bold)
    return table
