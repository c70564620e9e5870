"""task=reproduce: train a finished run again by what is recorded of it, and say whether the same comes out."""

import hashlib
import json
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from omegaconf import DictConfig
from rich.console import Console

from mcl_lab.config.compose import compose, overrides, parse, run_folder
from mcl_lab.config.key import run_name
from mcl_lab.config.nearest import nearest
from mcl_lab.config.stored import read_config, with_settings
from mcl_lab.errors import InputError, RunFailed, plain_text
from mcl_lab.launch.code import CHANGED
from mcl_lab.tasks import build
from mcl_lab.tasks.closing import recording
from mcl_lab.tasks.compared import Comparison, compare
from mcl_lab.tasks.failures import in_one_line
from mcl_lab.tasks.folders import refuse_other_run
from mcl_lab.tasks.provenance import DECIDING, changes_file, environment_of
from mcl_lab.tasks.screen import say, screen, table
from mcl_lab.tasks.train import bring_to_end, prepare
from mcl_lab.tracking.fetched import NotFetched, fetch
from mcl_lab.tracking.files import read_json
from mcl_lab.tracking.journal import KIND_TAG, is_finished, read_record, read_status
from mcl_lab.training.checkpoints import read

REPRODUCED = "reproduced"  # the folder of reproductions, beside the run folders
SHOWN = {"git_commit": "commit", "changes": "changes of the code", "device_type": "device type"}


def reproduce(
    config: DictConfig,
    *,
    run: Annotated[str, "not empty"],
    tolerance: Annotated[float, ">= 0"] = 0.0,
    format: Literal["table", "json"] = "table",
) -> None:
    """Print what differs of how the two were trained, and of what came out.

    run: a run folder, its name, or the id or name of a run in MLflow (`tracking.uri`, `tracking.experiment`). It is left as it
    is: a reproduction has a folder of its own, one for each combination of code, versions and device that it is trained by, and
    goes on there when it was interrupted. Device type and threads are those of the run, unless the command line names others.
    tolerance: by how many percentage points the final figures may differ.

    Raises InputError when `run` is no finished run or the images are not its own, before anything is written, and RunFailed
    when it is not reproduced.
    """
    if config.resume is not None:
        raise InputError("resume", "goes with task=train; an interrupted reproduction goes on by the same command")
    console = screen() if format == "table" else Console(stderr=True, highlight=False, markup=False)
    with found(config, run) as original:
        again = as_it_was(config, original)
        device = build.use_device(again.trainer)
        environment, _ = environment_of(device)
        folder = run_folder(config).parent / REPRODUCED / f"{run_name(again)}-{_hash(environment)}"
        again.hydra.run.dir = str(folder)
        refuse_other_run(again, folder)
        if is_finished(folder):
            refuse_other_images(original, _environments(str(folder), folder)[-1].get("data", {}))
        else:
            tags = {KIND_TAG: "reproduction", "reproduces": original.id}
            with in_one_line(again, folder):
                prepared = prepare(again, folder, console, tags)
                refuse_other_images(original, prepared.environment["data"])
                bring_to_end(prepared, again, folder)
        compared = compare(original.folder, folder)
        differing = differences(original.environments[-1], _environments(str(folder), folder)[-1])
        verdict, well = judge(compared, tolerance)
        if not compared.to_the_bit and device.type == "cuda" and not again.trainer.deterministic:
            say("on CUDA only runs with trainer.deterministic=true come to the same bits")
        if format == "json":
            show_json(original, folder, differing, compared, verdict, well)
        else:
            show(original, folder, differing, compared, console)
            for name, text in [*recording(again, folder), ("verdict", verdict)]:
                console.print(f"{name:<13}  {text}", soft_wrap=True)
    if not well:
        raise RunFailed(f"{original.name} is not reproduced: {verdict}")


class Original(NamedTuple):
    """A finished run to reproduce."""

    name: str
    id: str  # the record's, or MLflow's
    folder: Path  # of it, or of what was fetched of it
    environments: list[dict]
    get_changes: str  # the beginning of a command that gets its changes.diff: the folder, or MLflow's


@contextmanager
def found(config: DictConfig, run: str) -> Iterator[Original]:
    """The run of that folder, id or name. Raises InputError("task.run") when there is none, or it is not finished."""
    places = [Path(run), run_folder(config).parent / run]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is not None:
        yield _in_folder(folder)
        return
    if config.tracking.uri is None:
        raise InputError("task.run", f"there is no folder {run}, and tracking=none leaves MLflow out")
    with tempfile.TemporaryDirectory(prefix="mcl_lab-") as place:
        try:
            fetched = fetch(config.tracking.uri, config.tracking.experiment, run, Path(place))
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
        environments = _environments(fetched["name"], Path(place))
        yield Original(_told(fetched["name"]), fetched["id"], Path(place), environments, command)


def _in_folder(folder: Path) -> Original:
    record = read_record(folder) or {}
    read_config(folder, "task.run")  # or it is no run folder
    if KIND_TAG in record.get("tags", {}):
        raise InputError("task.run", f"{folder} is a reproduction itself; name the run that it repeats")
    if not is_finished(folder):
        status = read_status(folder) or {"state": "not begun", "message": ""}
        remedy = f"let it finish: python run.py resume={shlex.quote(str(folder))}"
        raise _unfinished(str(folder), status["state"], status["message"], remedy)
    environments = _environments(str(folder), folder)
    return Original(folder.absolute().name, record.get("id", str(folder)), folder, environments, "")


def _unfinished(name: str, state: str, message: str, remedy: str) -> InputError:
    why = f"{state}: {message}" if message else state
    return InputError("task.run", f"{name} is not finished ({why}), so there is nothing to compare with; {remedy}")


def _environments(name: str, folder: Path) -> list[dict]:
    """What the run in the folder was trained in, by its result.json, which somebody else may have written."""
    result = read_json(folder / "result.json") or {}
    earlier, last = result.get("earlier_environments", []), result.get("environment")
    told = [*earlier, last] if isinstance(earlier, list) else []
    if not told or not all(isinstance(environment, dict) for environment in told):
        raise InputError("task.run", f"the result.json of {name} is damaged: it does not tell what it was trained in")
    return told


def as_it_was(config: DictConfig, original: Original) -> DictConfig:
    """The original's config, with its device and threads, and what the command line sets besides that decides no numbers."""
    stored = read_config(original.folder, "task.run")
    again = with_settings(stored, config, "task.run", original.name)
    typed = {override.key_or_group for override in parse(overrides(config))}
    was = original.environments[-1]
    device, threads = was.get("device_type"), was.get("threads")
    if not typed & {"trainer", "trainer.device"}:
        again.trainer.device = device if device in ("cpu", "cuda") else stored.trainer.device
    if "trainer.threads" not in typed:
        again.trainer.threads = threads if isinstance(threads, int) and threads > 0 else stored.trainer.threads
    if "trainer.deterministic" not in typed:
        again.trainer.deterministic = stored.trainer.deterministic
    if "trainer.compile" not in typed:
        again.trainer.compile = stored.trainer.compile
    again.tracking = config.tracking
    again.task = compose([]).task
    again.sweep = None
    return again


def refuse_other_images(original: Original, now: Mapping[str, str]) -> None:
    """Raise InputError when the data set is not the original's, as far as that is recorded."""
    was = original.environments[-1].get("data")
    if not isinstance(was, dict):  # older code recorded it with the networks
        networks = sorted((original.folder / "checkpoints").glob("networks-*.pt"))
        was = {"train": read(networks[0])["data"]["checksum"]} if networks else {}
    for part, checksum in now.items():
        if was.get(part) not in (None, checksum):
            raise InputError(
                "data",
                f"the {part} images are not those of {original.name} (checksum {checksum}, theirs {was[part]}); "
                "name the folder of its images: data.root=FOLDER",
            )


def differences(was: Mapping, now: Mapping) -> dict[str, tuple]:
    """What differs of two environments, by name; None for what was not recorded."""
    return {name: (was.get(name), now.get(name)) for name in DECIDING if was.get(name) != now.get(name)}


def judge(compared: Comparison, tolerance: float) -> tuple[str, bool]:
    """(the verdict, whether that is well)"""
    if compared.to_the_bit:
        return "reproduced to the bit", True
    if compared.apart <= tolerance:
        return f"same figures within {compared.apart:.4g} percentage points", True
    return f"differs: final figures by {_points(compared.apart)}, task.tolerance is {tolerance:.4g}", False


def show_json(
    original: Original, folder: Path, differing: Mapping, compared: Comparison, verdict: str, well: bool
) -> None:
    content = {
        "original": original.name,
        "reproduction": str(folder),
        "differs": differing,
        "trained_in": original.environments,
        "commands": old_code(original, differing),
        **compared.as_json(),
        "verdict": verdict,
        "reproduced": well,
    }
    print(json.dumps(content, indent=2))


def show(original: Original, folder: Path, differing: Mapping, compared: Comparison, console: Console) -> None:
    made = table(f"Test accuracy (%) of {original.name}", ["figure"], ["original", "again", "difference"])
    for name, (one, other) in compared.final.items():
        distance = "" if one is None or other is None else f"{other - one:+.2f}"
        made.add_row(name.replace("/", ": ").replace("_", " "), _number(one), _number(other), distance)
    console.print()
    console.print(made)
    lines = [("folder", str(folder)), ("weights", _weights(compared)), ("epochs", _epochs(compared))]
    lines += [("not compared", note) for note in compared.notes]
    for name, pair in differing.items():
        lines.append(("differs", f"{SHOWN.get(name, name)}: {' -> '.join(map(_told, pair))}"))
    if len(original.environments) > 1:
        stretches = ", ".join(
            f"from step {_told(there.get('step'))} {_told(there.get('git_commit'))[:12]}, {_told(there.get('device'))}, "
            f"{_told(there.get('threads'))} threads"
            for there in original.environments
        )
        lines.append(("was resumed", f"elsewhere or by other code: {stretches}"))
    lines += [("the old code", command) for command in old_code(original, differing)]
    for name, text in lines:
        console.print(f"{name:<13}  {text}", soft_wrap=True)


def old_code(original: Original, differing: Mapping) -> list[str]:
    """The commands that bring back the code of the original, when it is not that of now."""
    was = original.environments[-1]
    commit = _told(was.get("git_commit", "unknown")).removesuffix(CHANGED)
    if not differing.keys() & {"git_commit", "changes"} or commit == "unknown":
        return []
    commands = [f"git checkout {shlex.quote(commit)}"]
    if name := changes_file(original.environments, was):
        fetching = [f"{original.get_changes} {name}"] if original.get_changes else []
        path = name if original.get_changes else str(original.folder.absolute() / name)
        commands += [*fetching, f"git apply {shlex.quote(path)}"]
    return commands


def _weights(compared: Comparison) -> str:
    if compared.weights is None:
        return "not known of the original"
    how = f"{compared.tensors} tensors" if compared.tensors else "by their checksum"
    if compared.weights:
        return f"equal to the bit ({how})"
    if not compared.tensors:
        return f"differ ({how})"
    return f"{compared.different_tensors} of {how} differ, by {compared.largest_weight_difference:.3g} at most"


def _epochs(compared: Comparison) -> str:
    if compared.first is None:
        return f"all figures of {compared.epochs} epochs are equal"
    epoch, name, one, other = compared.first
    at, most, before, after = compared.largest
    distance = "missing" if before is None or after is None else f"{abs(after - before):.3g}"
    return (
        f"the first to differ is epoch {epoch}, {name}: {_told(one)} -> {_told(other)}; largest difference {distance} "
        f"(epoch {at}, {most})"
    )


def _points(apart: float) -> str:
    return "more than there is to compare" if apart == float("inf") else f"up to {apart:.4g} percentage points"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _told(value: object) -> str:
    """What somebody else may have written, as one line for a terminal."""
    return plain_text("none" if value is None else str(value)[:100])


def _hash(environment: Mapping) -> str:
    deciding = {name: environment.get(name) for name in DECIDING}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]
