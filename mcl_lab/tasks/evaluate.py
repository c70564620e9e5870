"""task=evaluate: score the networks of a run on a data set."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import DictConfig, OmegaConf

from mcl_lab.config.compose import overrides, parse
from mcl_lab.config.key import TRAINER_KEYS
from mcl_lab.config.stored import FILE_NAME, read_config
from mcl_lab.errors import InputError
from mcl_lab.tasks import build
from mcl_lab.tasks.screen import say, screen, table
from mcl_lab.training.checkpoints import newest_file, read
from mcl_lab.training.evaluation import evaluate as accuracies_of


def evaluate(config: DictConfig, *, checkpoint: Annotated[str, "not empty"], format: Literal["table", "json"] = "table") -> None:
    """Print top-1 and top-5 accuracies (%) of every head and ensemble on the test images.

    checkpoint: a run folder, whose finished networks or newest checkpoint are taken, or a checkpoint file in one.
    The data set is the run's own, unless the command line names another (`data=...`); its images are normalised as the run's
    training images were. Raises InputError.
    """
    path = Path(checkpoint)
    if not os.path.exists(path):
        raise InputError("task.checkpoint", f"there is no {path}")
    folder = path if path.is_dir() else path.absolute().parent.parent
    run = read_config(folder, "task.checkpoint")
    state = read(newest_file(path / "checkpoints") if path.is_dir() else path)
    facts = _facts_in(state, path)
    computed_as = {name: run.trainer[name] for name in TRAINER_KEYS}  # in the run's own precision
    run.trainer = OmegaConf.merge(config.trainer, computed_as)
    device = build.use_device(run.trainer)
    data = config.data if _names_data(config) else _own_data(run, config)
    images = build.read_images(data).test.to(device)
    for warning in build.left_out_warning("test", images):
        say(warning)
    if images.classes != facts.classes:
        raise InputError(
            "data", f"{data.name} does not have the classes of {run.data.name}, on which the networks were trained"
        )
    learners = build.build_learners(run, len(facts.classes), device, images.images.shape[-2:])
    for name, part in (("cohort", learners.cohort), ("objective", learners.objective)):
        try:
            part.load_state_dict(state["parts"][name])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError("task.checkpoint", f"{path} does not hold the networks of {folder}/{FILE_NAME}: {error}") from error
    batches = build.evaluation_batches(images, facts, run)
    accuracies = accuracies_of(learners.cohort, learners.objective.ensembles, batches)
    if format == "json":
        print(json.dumps({"dataset": data.name, "images": len(images), **accuracies}, indent=2))
    else:
        shown = table(f"Test accuracy (%) on {data.name}, {len(images):,} images", ["peer", "head"], ["top-1", "top-5"])
        for peer, heads in accuracies["top1"].items():
            for head, top1 in heads.items():
                name, top5 = f"{peer}: {run.pair.peers[peer].name}", accuracies["top5"][peer][head]
                shown.add_row(name, head, f"{top1:.2f}", f"{top5:.2f}", style="bold" if head == "own_head" else None)
        screen().print(shown)


def _facts_in(state: dict, path: Path) -> build.DataFacts:
    """What the networks were trained on. Raises InputError for a file that does not say it."""
    try:
        facts = build.DataFacts(**state["data"])
        texts = [*facts.classes, facts.checksum]
        numbers = [float(number) for number in (*facts.mean, *facts.std)]
        if not all(isinstance(text, str) for text in texts) or len(facts.mean) != 3 or len(numbers) != 6 or not facts.classes:
            raise ValueError("its data are of other types")
        return facts._replace(classes=tuple(facts.classes))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("task.checkpoint", f"{path} does not tell what it was trained on: {error}") from error


def _names_data(config: DictConfig) -> bool:
    return any(override.key_or_group in ("data", "experiment") for override in parse(overrides(config)))


def _own_data(run: DictConfig, config: DictConfig) -> DictConfig:
    """The data of the run, with single values of the command line: `data.root=...`."""
    data = run.data
    for override in parse(overrides(config)):
        if override.key_or_group.startswith("data."):
            OmegaConf.update(data, override.key_or_group.removeprefix("data."), override.value())
    return data
