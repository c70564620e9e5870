"""task=train: train a cohort, from the beginning or from where it was stopped."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from rich.console import Console

from mcl_lab.config.compose import run_folder
from mcl_lab.config.stored import FILE_NAME, read_config, to_yaml
from mcl_lab.errors import InputError, Interrupted, RunFailed
from mcl_lab.results.runs import read_result
from mcl_lab.tasks import build
from mcl_lab.tasks.closing import show_result
from mcl_lab.tasks.failures import in_one_line
from mcl_lab.tasks.folders import make_folder, refuse_other_run, sweep_folder
from mcl_lab.tasks.provenance import data_checksums, environment_of, trained_in, write_changes
from mcl_lab.tasks.record import record_of, result_of
from mcl_lab.tasks.run_log import LOGGER as log
from mcl_lab.tasks.run_log import run_log
from mcl_lab.tasks.screen import screen
from mcl_lab.tracking.files import write_atomically, write_json
from mcl_lab.tracking.journal import Journal, is_finished, read_last_epoch, read_record
from mcl_lab.tracking.lock import RunLock
from mcl_lab.tracking.secrets import without_credentials
from mcl_lab.tracking.sender import start_sender
from mcl_lab.tracking.system import refuse_missing
from mcl_lab.tracking.uri import network_warning, stored_uri
from mcl_lab.training.checkpoints import Checkpoints, checksum_of_weights, drop_steps
from mcl_lab.training.progress import ConsoleProgress
from mcl_lab.training.randomness import seed_everything
from mcl_lab.training.trainer import Trainer

NETWORKS = ("cohort", "objective", "weight_network")  # what a finished run keeps


def train(config: DictConfig) -> None:
    """Train until the schedule's end, in the run's folder; of a finished run only say the result.

    Raises InputError before anything is written; RunFailed and Interrupted once the record says so.
    """
    folder, console = run_folder(config), screen()
    refuse_other_run(config, folder)
    if is_finished(folder):
        refuse_other_images(config, folder)
        drop_steps(folder / "checkpoints")  # when it was ended before it could
        console.print(f"This run is finished. To train it again, delete {folder}", soft_wrap=True)
    else:
        with in_one_line(config, folder):
            bring_to_end(prepare(config, folder, console), config, folder)
    show_result(config, folder, console)


def bring_to_end(run: "Run", config: DictConfig, folder: Path) -> None:
    """Train what was prepared, from wherever it stands, by one process at a time."""
    make_folder(folder)
    with run.lock, run_log(folder), run.trainer.stop:  # from the first word to the last
        if not is_finished(folder):  # or it was finished while this process waited for the lock
            execute(run, config, folder)


class Run(NamedTuple):
    trainer: Trainer
    checkpoints: Checkpoints
    journal: Journal
    record: dict  # what the journal begins with, but for the environments
    environment: dict  # what this process trains in
    changes: str  # of the code
    lock: RunLock
    warnings: list[str]  # what is odd about the data, and about the place where it is recorded
    left_out: list[str]  # images that could not be read


def prepare(config: DictConfig, folder: Path, console: Console, tags: Mapping[str, str] | None = None) -> Run:
    """Everything the run needs, standing at its beginning. Writes nothing; raises InputError for what cannot be built.

    tags: of its record, besides those that are made from the config.
    """
    if config.tracking.uri is not None:
        stored_uri(config.tracking.uri)  # refuses what MLflow has no store for
        refuse_missing(config.tracking.system)
    where = {"uri": config.tracking.uri, "experiment": config.tracking.experiment}
    begun = read_record(folder)
    record = (begun or record_of(config, folder)) | where
    record["tags"] = {**record["tags"], **(tags or {})}
    if (
        config.sweep is not None and record.get("parent") is None
    ):  # a run stays with the sweep that it was first part of
        record |= {"parent": str(sweep_folder(config.sweep, folder.parent).absolute())}
    unsafe = config.tracking.uri and network_warning(config.tracking.uri)
    device = build.use_device(config.trainer)
    seed_everything(config.seed)
    environment, changes = environment_of(device)
    data = build.build_data(config.data, device)
    learners = build.build_learners(config, len(data.train.classes), device, data.train.images.shape[-2:])
    batches = build.training_batches(config, data)

    updates = build.build_updates(config, learners)

    cohort, objective = learners.cohort, learners.objective
    parts = {"cohort": cohort, "objective": objective, **updates.parts}
    if learners.weight_network is not None:
        parts["weight_network"] = learners.weight_network
    journal, lock = Journal(folder), RunLock(folder)
    facts = {"data": data.facts._asdict()}
    environment |= {"data": data_checksums(facts["data"])}
    checkpoints = Checkpoints(folder / "checkpoints", write_atomically, run_key=record["run_key"], facts=facts)
    networks = {key: config.pair.peers[key].name for key in cohort.peers}
    progress = ConsoleProgress(console, networks, ensembles=objective.aggregator is not None)

    def save(state: dict, epochs: int, step: int) -> None:
        lock.check()  # never into a folder that another process has taken over
        checkpoints.save(state, epochs, step)

    trainer = Trainer(
        cohort=cohort,
        objective=objective,
        optimizer=updates.optimizer,
        schedules=updates.schedules,
        batches=batches,
        evaluations={
            name: build.evaluation_batches(images, data.facts, config) for name, images in data.evaluated.items()
        },
        meta_event=updates.meta_event,
        parts=parts,
        device=device,
        epochs=config.trainer.epochs,
        max_steps=config.trainer.max_steps,
        checkpoint_steps=config.trainer.checkpoint_steps,
        compile=config.trainer.compile,
        graphs=config.trainer.graphs,
        save=save,
        record=journal.append,
        progress=progress,
    )
    warnings = [*data.warnings, *batches.warnings, *([unsafe] if unsafe else [])]
    return Run(trainer, checkpoints, journal, record, environment, changes, lock, warnings, data.left_out)


def execute(run: Run, config: DictConfig, folder: Path) -> None:
    """Train, in a folder that is locked, from its newest checkpoint; the journal says how it went, however it goes."""
    trainer, checkpoints, journal = run.trainer, run.checkpoints, run.journal
    state = checkpoints.newest()
    if state:
        refuse_other_data(state.get("data"), checkpoints.facts["data"])
        take_up(trainer, state)
    elif read_last_epoch(folder):
        raise RunFailed(
            f"{folder} has epochs and no checkpoint to go on from; to start over, delete the run folder {folder}"
        )
    if not (folder / FILE_NAME).exists():
        write_atomically(folder / FILE_NAME, to_yaml(config, without_credentials))
    record = journal.begin(trained_in(run.record, read_record(folder), run.environment, trainer.position.step))
    write_changes(folder, record, run.changes)
    journal.restore(trainer.records)
    journal.status("running")
    start_sender(folder, config.tracking.uri, config.tracking.system)
    log.info(
        "%s at epoch %d, step %d",
        "going on" if state else "starting",
        trainer.position.epoch + 1,
        trainer.position.step,
    )
    for warning in run.warnings:
        log.warning(warning)
    for image in run.left_out:
        log.info("left out: %s", image)
    try:
        with in_one_line(config, folder):
            records = trainer.fit()
            networks = {name: trainer.parts[name].state_dict() for name in NETWORKS if name in trainer.parts}
            checkpoints.finish({"parts": networks})
            result = result_of(config, records, record["environments"], checksum_of_weights(networks))
            write_json(folder / "result.json", result)
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        log.error("%s", error, exc_info=not stopped)
        with suppress(OSError):  # on a disk that fails, a run whose process is gone counts as failed
            journal.status("interrupted" if stopped else "failed", str(error))
        raise
    log.info("finished")
    journal.status("finished")  # the last word: what is read by others is whole
    drop_steps(folder / "checkpoints")


def take_up(trainer: Trainer, state: dict) -> None:
    """Stand where a checkpoint was taken. Raises RunFailed when the code builds something else now."""
    try:
        trainer.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        position = state.get("position")
        step = position.get("step") if isinstance(position, dict) else "unknown"
        raise RunFailed(
            f"the checkpoint of step {step} does not fit what this code builds from the run's config "
            f"({error}); train on with the code that wrote it"
        ) from error


def refuse_other_images(config: DictConfig, folder: Path) -> None:
    """Raise InputError when the images of a finished run were read elsewhere than these, and are others: where they are is not in
    its key. Images that are not to be had now may be any."""
    stored = read_config(folder, "hydra.run.dir").data
    trained_on = ((read_result(folder) or {}).get("environment") or {}).get("data")
    if stored == config.data or not trained_on:
        return
    try:
        now = data_checksums(build.build_data(config.data, torch.device("cpu")).facts._asdict())
    except InputError:
        return
    if any(trained_on.get(part) not in (None, checksum) for part, checksum in now.items()):
        raise InputError("data.name", f"{folder} was trained on other images of this name; name these data.name=ANOTHER_NAME")


def refuse_other_data(before: object, now: dict) -> None:
    """Raise InputError when the images are not those that the run began with: a folder's content is not in its key."""
    before = before if isinstance(before, dict) else dict.fromkeys(now)  # a checkpoint that no run wrote
    changed = [name for name in before if name not in now or before[name] != now[name]]
    if changed:
        raise InputError("data", f"is not what this run was trained on so far: {', '.join(changed)} differ")
