"""A run, put together from its config, standing at its beginning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.console import Console

from mcl_lab.assembly.data import Data, build_data, evaluation_batches, training_batches
from mcl_lab.assembly.device import use_device
from mcl_lab.assembly.learners import build_learners
from mcl_lab.assembly.method import build_method
from mcl_lab.data.loaders import check_batches
from mcl_lab.host.files import write_atomically
from mcl_lab.host.uri import artifacts_warning, network_warning
from mcl_lab.runs.checkpoints import Checkpoints, checksum_of_weights
from mcl_lab.runs.folders import sweep_folder
from mcl_lab.runs.journal import Journal, read_record
from mcl_lab.runs.layout import RunFolder
from mcl_lab.runs.lock import RunLock
from mcl_lab.runs.provenance import data_checksums, environment_of
from mcl_lab.runs.record import record_of
from mcl_lab.terminal.progress import ConsoleProgress
from mcl_lab.tracking.moved import refuse_moved
from mcl_lab.tracking.system import refuse_missing
from mcl_lab.training.randomness import seed_everything
from mcl_lab.training.trainer import Trainer


class PreparedRun(NamedTuple):
    """What `execution.bring_to_end` executes; nothing of it is written yet."""

    config: DictConfig
    folder: Path
    trainer: Trainer
    checkpoints: Checkpoints
    journal: Journal
    lock: RunLock
    record: dict[str, Any]  # what the journal begins with, but for the environments
    environment: dict[str, Any]  # what this process trains in
    changes: str  # of the code
    warnings: list[str]  # what is odd about the data, and about the place where it is recorded
    data: Data


def prepare(config: DictConfig, folder: Path, console: Console, tags: Mapping[str, str] | None = None) -> PreparedRun:
    """Check what can be checked, then build what the run needs. Writes nothing; raises InputError for what cannot be built.

    tags: of its record, besides those that are made from the config.
    """
    refuse_tracking(config.tracking)
    device = use_device(config.trainer)
    environment, changes = environment_of(device)
    record = begun_record(config, folder, tags or {})

    seed_everything(config.seed)
    data = build_data(config.data, device)
    layout = {"channels_last": config.trainer.channels_last}
    balanced = config.loss.class_balanced
    # Before the learners, which are tried on a batch's labels: a batch that there are no images for may not fit memory either.
    check_batches(data.train, batch_size=config.data.batch_size, class_balanced=balanced)
    image_size = data.train.images.shape[-2:]
    learners = build_learners(config, len(data.train.classes), device, image_size)
    # After the learners: an augmentation that draws random numbers must not change their initial weights.
    batches = training_batches(config.data, data, class_balanced=balanced, seed=config.seed, **layout)
    method = build_method(config, learners, image_size)
    evaluations = {
        name: evaluation_batches(images, data.facts, batch_size=config.data.batch_size, **layout)
        for name, images in data.evaluated.items()
    }

    facts = {"data": data.facts._asdict()}
    environment["data"] = data_checksums(facts["data"])
    environment["initial_weights"] = checksum_of_weights(method.networks())  # which a network may read from a file
    journal, lock = Journal(folder), RunLock(folder)
    checkpoints = Checkpoints(RunFolder(folder).checkpoints, write_atomically, run_key=record["run_key"], facts=facts)
    networks = {key: config.pair.peers[key].name for key in learners.cohort.peers}

    def save(state: dict[str, Any], epochs: int, step: int) -> None:
        lock.check()  # never into a folder that another process has taken over
        checkpoints.save(state, epochs, step)

    trainer = Trainer(
        method,
        batches,
        evaluations,
        epochs=config.trainer.epochs,
        max_steps=config.trainer.max_steps,
        checkpoint_steps=config.trainer.checkpoint_steps,
        save=save,
        record=journal.append,
        progress=ConsoleProgress(
            console, networks, ensembles=learners.objective.aggregator is not None, data=data.description
        ),
    )
    warnings = [*data.warnings, *batches.warnings, *unsafe_place(config.tracking)]
    return PreparedRun(
        config, folder, trainer, checkpoints, journal, lock, record, environment, changes, warnings, data
    )


def refuse_tracking(tracking: DictConfig) -> None:
    """Raise InputError for a URI that MLflow has no store for, a store that was moved, and what measuring the machine lacks."""
    if tracking.uri is not None:
        refuse_moved(tracking.uri, tracking.experiment)
        refuse_missing(tracking.system)


def unsafe_place(tracking: DictConfig) -> list[str]:
    """Warnings of a store in which several processes may not write at once, or whose artifacts lie anywhere."""
    found = [
        warning_of(tracking.uri) for warning_of in (network_warning, artifacts_warning) if tracking.uri is not None
    ]
    return [warning for warning in found if warning]


def begun_record(config: DictConfig, folder: Path, tags: Mapping[str, str]) -> dict[str, Any]:
    """The record of a run that was begun in the folder, else a new one; where it is tracked is said anew."""
    where = {"uri": config.tracking.uri, "experiment": config.tracking.experiment}
    record = (read_record(folder) or record_of(config, folder)) | where
    record["tags"] = {**record["tags"], **tags}
    # A run stays with the sweep that it was first part of.
    if config.sweep is not None and record.get("parent") is None:
        record["parent"] = str(sweep_folder(config.sweep, folder.parent).absolute())
    return record
