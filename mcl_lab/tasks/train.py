"""task=train: train a cohort, from the beginning or from where it was stopped."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from mcl_lab.assembly.data import build_data
from mcl_lab.assembly.execution import bring_to_end
from mcl_lab.assembly.run import prepare
from mcl_lab.config.compose import run_folder
from mcl_lab.config.stored import read_config
from mcl_lab.errors import InputError
from mcl_lab.host.screen import screen
from mcl_lab.runs.checkpoints import drop_steps
from mcl_lab.runs.failures import in_one_line
from mcl_lab.runs.folders import refuse_other_run
from mcl_lab.runs.journal import is_finished
from mcl_lab.runs.layout import RunFolder
from mcl_lab.runs.provenance import data_checksums
from mcl_lab.runs.result import read_result
from mcl_lab.terminal.result import show_result


def train(config: DictConfig) -> None:
    """Train until the schedule's end, in the run's folder; of a finished run only say the result.

    Raises InputError before anything is written; RunFailed and Interrupted once the record says so.
    """
    folder, console = run_folder(config), screen()
    refuse_other_run(config, folder)
    if is_finished(folder):
        refuse_other_images(config.data, folder)
        drop_steps(RunFolder(folder).checkpoints)  # when it was ended before it could
        console.print(f"This run is finished. To train it again, delete {folder}", soft_wrap=True)
    else:
        with in_one_line(config, folder):
            bring_to_end(prepare(config, folder, console))
    show_result(config, folder, console)


def refuse_other_images(data: DictConfig, folder: Path) -> None:
    """Raise InputError when the images of a finished run were read elsewhere than these, and are others: where they are is not in
    its key. Images that are not to be had now may be any."""
    stored = read_config(folder, "hydra.run.dir").data
    trained_on = ((read_result(folder) or {}).get("environment") or {}).get("data")
    if stored == data or not trained_on:
        return
    try:
        now = data_checksums(build_data(data, torch.device("cpu")).facts._asdict())
    except InputError:
        return
    if any(trained_on.get(part) not in (None, checksum) for part, checksum in now.items()):
        raise InputError(
            "data.name", f"{folder} was trained on other images of this name; name these data.name=ANOTHER_NAME"
        )
