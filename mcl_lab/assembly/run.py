"""A run, put together from its config, and its training in its folder, from wherever it stands to its end."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig
from rich.console import Console

from mcl_lab.assembly.data import build_data, evaluation_batches, training_batches
from mcl_lab.assembly.device import use_device
from mcl_lab.assembly.learners import build_learners
from mcl_lab.assembly.updates import build_updates
from mcl_lab.config.stored import to_yaml
from mcl_lab.errors import InputError, Interrupted, RunFailed
from mcl_lab.host.files import write_atomically, write_json
from mcl_lab.host.secrets import without_credentials
from mcl_lab.host.uri import network_warning, stored_uri
from mcl_lab.runs.checkpoints import Checkpoints, checksum_of_weights, drop_steps
from mcl_lab.runs.failures import in_one_line
from mcl_lab.runs.folders import make_folder, sweep_folder
from mcl_lab.runs.journal import Journal, is_finished, read_last_epoch, read_record
from mcl_lab.runs.layout import RunFolder
from mcl_lab.runs.lock import RunLock
from mcl_lab.runs.log import LOGGER as log
from mcl_lab.runs.log import run_log
from mcl_lab.runs.provenance import data_checksums, environment_of, trained_in, write_changes
from mcl_lab.runs.record import record_of, result_of
from mcl_lab.terminal.progress import ConsoleProgress
from mcl_lab.tracking.sender import start_sender
from mcl_lab.tracking.system import refuse_missing
from mcl_lab.training.randomness import seed_everything
from mcl_lab.training.trainer import Trainer

NETWORKS = ("cohort", "objective", "weight_network")  # what a finished run keeps


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
    device = use_device(config.trainer)
    seed_everything(config.seed)
    environment, changes = environment_of(device)
    data = build_data(config.data, device)
    learners = build_learners(config, len(data.train.classes), device, data.train.images.shape[-2:])
    batches = training_batches(config, data)

    updates = build_updates(config, learners)

    cohort, objective = learners.cohort, learners.objective
    parts = {"cohort": cohort, "objective": objective, **updates.parts}
    if learners.weight_network is not None:
        parts["weight_network"] = learners.weight_network
    journal, lock = Journal(folder), RunLock(folder)
    facts = {"data": data.facts._asdict()}
    environment |= {"data": data_checksums(facts["data"])}
    checkpoints = Checkpoints(RunFolder(folder).checkpoints, write_atomically, run_key=record["run_key"], facts=facts)
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
        evaluations={name: evaluation_batches(images, data.facts, config) for name, images in data.evaluated.items()},
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


def bring_to_end(run: Run, config: DictConfig, folder: Path) -> None:
    """Train what was prepared, from wherever it stands, by one process at a time."""
    make_folder(folder)
    with run.lock, run_log(folder), run.trainer.stop:  # from the first word to the last
        if not is_finished(folder):  # or it was finished while this process waited for the lock
            execute(run, config, folder)


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
    if not RunFolder(folder).config.exists():
        write_atomically(RunFolder(folder).config, to_yaml(config, without_credentials))
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
            write_json(RunFolder(folder).result, result)
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        log.error("%s", error, exc_info=not stopped)
        with suppress(OSError):  # on a disk that fails, a run whose process is gone counts as failed
            journal.status("interrupted" if stopped else "failed", str(error))
        raise
    log.info("finished")
    journal.status("finished")  # the last word: what is read by others is whole
    drop_steps(RunFolder(folder).checkpoints)


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


def refuse_other_data(before: object, now: dict) -> None:
    """Raise InputError when the images are not those that the run began with: a folder's content is not in its key."""
    before = before if isinstance(before, dict) else dict.fromkeys(now)  # a checkpoint that no run wrote
    changed = [name for name in before if name not in now or before[name] != now[name]]
    if changed:
        raise InputError("data", f"is not what this run was trained on so far: {', '.join(changed)} differ")
