"""A finished run that is to be reproduced: where it is, and how it was trained."""

import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from mcl_lab.config.compose import compose, overrides, parse, run_folder
from mcl_lab.config.nearest import nearest
from mcl_lab.config.stored import read_config, with_settings
from mcl_lab.errors import InputError
from mcl_lab.host.text import as_line
from mcl_lab.runs.checkpoints import UnusableCheckpoint, networks_file, read
from mcl_lab.runs.journal import KIND_TAG, is_finished, read_record, read_status
from mcl_lab.runs.layout import RunFolder
from mcl_lab.runs.result import read_result
from mcl_lab.tracking.fetch import NotFetched, fetch


class Original(NamedTuple):
    """A finished run to reproduce."""

    name: str
    id: str  # the record's, or MLflow's
    folder: Path  # of it, or of what was fetched of it
    environments: list[dict]  # in which it was trained, one after the other
    get_changes: str  # the beginning of a command that gets its changes.diff from MLflow; empty for a folder


@contextmanager
def find_original(config: DictConfig, run: str) -> Iterator[Original]:
    """The run of that folder, or of that name beside the run folders, or of that id or name in MLflow, of which a temporary
    folder holds what is needed as long as the context lasts.

    Raises InputError("task.run") when there is none, when it is not finished, or is a reproduction itself.
    """
    places = [Path(run), run_folder(config).parent / run]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is not None:
        yield _in_folder(folder)
        return
    if config.tracking.uri is None:
        raise InputError("task.run", f"there is no folder {run}, and tracking=none leaves MLflow out")
    with tempfile.TemporaryDirectory(prefix="mcl_lab-") as place:
        yield _in_mlflow(config, run, Path(place))


def config_as_it_was(config: DictConfig, original: Original) -> DictConfig:
    """The original's config, with its device and threads, and what the command line of `config` sets besides.

    Raises InputError("task.run") for what would change the numbers.
    """
    stored = read_config(original.folder, "task.run")
    again = with_settings(stored, config, "task.run", original.name)
    typed = {override.key_or_group for override in parse(overrides(config))}
    was = original.environments[-1]
    device, threads = was.get("device_type"), was.get("threads")
    if not typed & {"trainer", "trainer.device"}:
        again.trainer.device = device if device in ("cpu", "cuda") else stored.trainer.device
    if "trainer.threads" not in typed:
        again.trainer.threads = threads if isinstance(threads, int) and threads > 0 else stored.trainer.threads
    for name in ("deterministic", "compile"):
        if f"trainer.{name}" not in typed:
            again.trainer[name] = stored.trainer[name]
    again.tracking = config.tracking
    again.task = compose([]).task
    again.sweep = None
    return again


def refuse_other_images(original: Original, now: Mapping[str, str]) -> None:
    """Raise InputError("data") when the data set is not the original's, as far as that is recorded. now: the checksums of its
    parts."""
    was = original.environments[-1].get("data")
    if not isinstance(was, dict):  # older code recorded it with the networks
        networks = networks_file(RunFolder(original.folder).checkpoints)
        try:
            was = {} if networks is None else {"train": read(networks)["data"]["checksum"]}
        except UnusableCheckpoint as error:
            raise InputError("task.run", str(error)) from error
    for part, checksum in now.items():
        if was.get(part) not in (None, checksum):
            raise InputError(
                "data",
                f"the {part} images are not those of {original.name} (checksum {checksum}, theirs {was[part]}); "
                "name the folder of its images: data.root=FOLDER",
            )


def environments_in(name: str, folder: Path) -> list[dict]:
    """What the run in the folder was trained in, by its result.json, which somebody else may have written.

    Raises InputError("task.run") that calls it `name`.
    """
    result = read_result(folder) or {}
    earlier, last = result.get("earlier_environments", []), result.get("environment")
    told = [*earlier, last] if isinstance(earlier, list) else []
    if not told or not all(isinstance(environment, dict) for environment in told):
        raise InputError("task.run", f"the result.json of {name} is damaged: it does not tell what it was trained in")
    return told


def _in_folder(folder: Path) -> Original:
    record = read_record(folder) or {}
    read_config(folder, "task.run")  # or it is no run folder
    if KIND_TAG in record.get("tags", {}):
        raise InputError("task.run", f"{folder} is a reproduction itself; name the run that it repeats")
    if not is_finished(folder):
        status = read_status(folder) or {"state": "not begun", "message": ""}
        remedy = f"let it finish: python run.py resume={shlex.quote(str(folder))}"
        raise _unfinished(str(folder), status["state"], status["message"], remedy)
    environments = environments_in(str(folder), folder)
    return Original(folder.absolute().name, record.get("id", str(folder)), folder, environments, get_changes="")


def _in_mlflow(config: DictConfig, run: str, place: Path) -> Original:
    """place: the empty folder that it is brought to."""
    try:
        fetched = fetch(config.tracking.uri, config.tracking.experiment, run, place)
    except NotFetched as error:
        raise InputError(
            "task.run",
            f"there is no folder {run}, and {error}{nearest(run, error.names)}; give a run folder, or the id or name of a "
            "run with its tracking.uri and tracking.experiment",
        ) from error
    if fetched["state"] != "finished":
        raise _unfinished(fetched["name"], fetched["state"], fetched["message"], "let it finish")
    download = ["mlflow", "artifacts", "download", "--run-id", fetched["id"], "--dst-path", ".", "--artifact-path"]
    command = f"MLFLOW_TRACKING_URI={shlex.quote(fetched['uri'])} {shlex.join(download)}"
    environments = environments_in(fetched["name"], place)
    return Original(as_line(fetched["name"]), fetched["id"], place, environments, get_changes=command)


def _unfinished(name: str, state: str, message: str, remedy: str) -> InputError:
    why = f"{state}: {message}" if message else state
    return InputError("task.run", f"{name} is not finished ({why}), so there is nothing to compare with; {remedy}")
