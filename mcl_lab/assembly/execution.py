"""The execution of a prepared run: its training in its folder, from wherever it stands to its end."""

from contextlib import suppress

from mcl_lab.assembly.run import PreparedRun
from mcl_lab.config.stored import to_yaml
from mcl_lab.errors import InputError, Interrupted, RunFailed
from mcl_lab.host.files import write_atomically, write_json
from mcl_lab.host.secrets import without_credentials
from mcl_lab.runs.checkpoints import checksum_of_weights, drop_steps
from mcl_lab.runs.failures import in_one_line
from mcl_lab.runs.folders import make_folder
from mcl_lab.runs.journal import is_finished, read_last_epoch, read_record
from mcl_lab.runs.layout import RunFolder
from mcl_lab.runs.log import LOGGER as log
from mcl_lab.runs.log import run_log
from mcl_lab.runs.provenance import trained_in, write_changes
from mcl_lab.runs.record import result_of
from mcl_lab.tracking.sender import start_sender
from mcl_lab.training.trainer import Trainer


def bring_to_end(run: PreparedRun) -> None:
    """Train what was prepared, from wherever it stands, by one process at a time.

    Raises RunFailed, and Interrupted when a signal asked to stop, once the journal says so.
    """
    make_folder(run.folder)
    with run.lock, run_log(run.folder), run.trainer.stop:  # from the first word to the last
        if not is_finished(run.folder):  # or it was finished while this process waited for the lock
            execute(run)


def execute(run: PreparedRun) -> None:
    """Train, in a folder that is locked, from its newest checkpoint; the journal says how it went, however it goes."""
    goes_on = take_up(run)
    environments = begin(run, goes_on)
    try:
        with in_one_line(run.config, run.folder):
            records = run.trainer.fit()
            networks = run.trainer.method.networks()
            run.checkpoints.finish({"parts": networks})
            result = result_of(run.config, records, environments, checksum_of_weights(networks))
            write_json(RunFolder(run.folder).result, result)
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        log.error("%s", error, exc_info=not stopped)
        with suppress(OSError):  # on a disk that fails, a run whose process is gone counts as failed
            run.journal.status("interrupted" if stopped else "failed", str(error))
        raise
    log.info("finished")
    run.journal.status("finished")  # the last word: what is read by others is whole
    drop_steps(run.checkpoints.folder)


def take_up(run: PreparedRun) -> bool:
    """Stand where the newest checkpoint was taken; whether there is one. Raises InputError when it is of other images, and
    RunFailed when nothing can go on from what is there."""
    state = run.checkpoints.newest()
    if state is None and read_last_epoch(run.folder):
        remedy = f"to start over, delete the run folder {run.folder}"
        raise RunFailed(f"{run.folder} has epochs and no checkpoint to go on from; {remedy}")
    if state is None:
        return False
    refuse_other_data(state.get("data"), run.checkpoints.facts["data"])
    load(run.trainer, state)
    return True


def begin(run: PreparedRun, goes_on: bool) -> list[dict]:
    """Write down what the run is and that it runs, and start the sender. Returns the environments that it is trained in."""
    stored = RunFolder(run.folder).config
    if not stored.exists():
        write_atomically(stored, to_yaml(run.config, without_credentials))
    position = run.trainer.position
    record = run.journal.begin(trained_in(run.record, read_record(run.folder), run.environment, position.step))
    write_changes(run.folder, record, run.changes)
    run.journal.restore(run.trainer.records)
    run.journal.status("running")
    start_sender(run.folder, run.config.tracking.uri, run.config.tracking.system)
    log.info("%s at epoch %d, step %d", "going on" if goes_on else "starting", position.epoch + 1, position.step)
    log.info(run.data.description)
    for warning in run.warnings:
        log.warning(warning)
    for image in run.data.left_out:
        log.info("left out: %s", image)
    return record["environments"]


def load(trainer: Trainer, state: dict) -> None:
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
