"""task=reproduce: train a finished run again by what is recorded of it, and say whether the same comes out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from rich.console import Console

from mcl_lab.assembly.device import use_device
from mcl_lab.assembly.execution import bring_to_end
from mcl_lab.assembly.run import prepare
from mcl_lab.config.compose import run_folder
from mcl_lab.config.identity import identity_of
from mcl_lab.errors import InputError, RunFailed
from mcl_lab.host.digests import digest_of
from mcl_lab.host.screen import say, screen
from mcl_lab.results.comparison import Comparison, compare
from mcl_lab.results.original import Original, config_as_it_was, environments_in, find_original, refuse_other_images
from mcl_lab.runs.failures import in_one_line
from mcl_lab.runs.folders import refuse_other_run
from mcl_lab.runs.journal import KIND_TAG, is_finished
from mcl_lab.runs.provenance import DECIDING, environment_of
from mcl_lab.terminal.output import put_out, show_lines
from mcl_lab.terminal.reproduction import old_code, show_reproduction
from mcl_lab.terminal.result import recording

REPRODUCED = "reproduced"  # the folder of reproductions, beside the run folders


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
    tolerance: by how many percentage points the final metrics may differ.

    Raises InputError when `run` is no finished run or the images are not its own, before anything is written, and RunFailed
    when it is not reproduced.
    """
    if config.resume is not None:
        raise InputError("resume", "goes with task=train; an interrupted reproduction goes on by the same command")
    training_console = screen() if format == "table" else Console(stderr=True, highlight=False, markup=False)
    with find_original(config, run) as original:
        again = config_as_it_was(config, original)
        device = use_device(again.trainer)
        environment, _ = environment_of(device)
        folder = run_folder(config).parent / REPRODUCED / f"{identity_of(again).name}-{_digest_of(environment)}"
        again.hydra.run.dir = str(folder)
        refuse_other_run(again, folder)
        if is_finished(folder):
            refuse_other_images(original, environments_in(str(folder), folder)[-1].get("data", {}))
        else:
            tags = {KIND_TAG: "reproduction", "reproduces": original.id}
            with in_one_line(again, folder):
                prepared = prepare(again, folder, training_console, tags)
                refuse_other_images(original, prepared.environment["data"])
                bring_to_end(prepared)
        compared = compare(original.folder, folder)
        differing = differences(original.environments[-1], environments_in(str(folder), folder)[-1])
        verdict, well = judge(compared, tolerance)
        if not compared.to_the_bit and device.type == "cuda" and not again.trainer.deterministic:
            say("on CUDA only runs with trainer.deterministic=true come to the same bits")
        told = as_json(original, folder, differing, compared) | {"verdict": verdict, "reproduced": well}

        def show(console: Console) -> None:
            show_reproduction(console, original, folder, differing, compared)
            show_lines(console, [*recording(again, folder), ("verdict", verdict)])

        put_out(format, told, show)
    if not well:
        raise RunFailed(f"{original.name} is not reproduced: {verdict}")


def differences(was: Mapping, now: Mapping) -> dict[str, tuple]:
    """What differs of two environments, by name; None for what was not recorded."""
    names = [*DECIDING, *({"initial_weights"} & was.keys())]
    return {name: (was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)}


def judge(compared: Comparison, tolerance: float) -> tuple[str, bool]:
    """(the verdict in words, whether that is well); programs read the second, `reproduced` in the JSON."""
    if compared.to_the_bit:
        return "reproduced to the bit", True
    if compared.apart <= tolerance:
        return f"same final metrics within {compared.apart:.4g} percentage points", True
    return f"differs: final metrics by {_points(compared.apart)}, task.tolerance is {tolerance:.4g}", False


def as_json(original: Original, folder: Path, differing: Mapping, compared: Comparison) -> dict[str, Any]:
    """What a program is told, but for the verdict."""
    return {
        "original": original.name,
        "reproduction": str(folder),
        "differs": differing,
        "trained_in": original.environments,
        "commands": old_code(original, differing),
        **compared.as_json(),
    }


def _points(apart: float) -> str:
    return "more than there is to compare" if apart == float("inf") else f"up to {apart:.4g} percentage points"


def _digest_of(environment: Mapping) -> str:
    """Eight digits that tell one combination of code, versions and device from another."""
    return digest_of({name: environment.get(name) for name in DECIDING})[:8]
