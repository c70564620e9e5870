"""task=benchmark: what a step, a meta event and an evaluation cost on this device."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Annotated, Literal

import torch
from omegaconf import DictConfig

from mcl_lab.assembly.rehearsal import Rehearsal
from mcl_lab.config.check import check
from mcl_lab.config.compose import compose, overrides, run_folder
from mcl_lab.config.sweeps import as_typed
from mcl_lab.errors import InputError
from mcl_lab.host.screen import screen, show_table
from mcl_lab.runs.failures import in_one_line
from mcl_lab.terminal.costs import cost_table
from mcl_lab.terminal.output import put_out


def benchmark(
    config: DictConfig,
    *,
    repeats: Annotated[int, ">= 1"] = 10,
    events: Annotated[int, ">= 1"] = 3,
    warmup: Annotated[int, ">= 1"] = 2,
    images: Annotated[int, ">= 2"] = 50_000,
    test_images: Annotated[int, ">= 1"] = 10_000,
    num_classes: Annotated[int, ">= 2"] = 100,
    image_size: Annotated[int, ">= 1"] = 32,
    compare: Mapping[str, object] | None = None,
    format: Literal["table", "json"] = "table",
) -> None:
    """Measure the config's training on images of noise, so many and of that size, and print medians after a warm-up.

    repeats: of steps and evaluated batches. events: of meta events, which take some ten times as long.
    compare: settings by key or group, `{trainer.precision: bf16}`, that make a second config of this one; the two are
    measured alternately, in one process. Raises InputError for a config that cannot be composed or built.
    """
    configs = [config] if compare is None else [config, changed(config, compare)]
    threads = torch.get_num_threads()
    with in_one_line(config, run_folder(config)), screen().status("measuring, for a minute or more"):  # on a terminal
        rehearsals = [Rehearsal(one, threads, images, test_images, num_classes, image_size) for one in configs]
        costs = [rehearsal.counts(warmup) for rehearsal in rehearsals]
        seconds: list[dict[str, float]] = [{} for _ in rehearsals]
        for name, times in (("step", repeats), ("evaluation", repeats), ("meta_event", events)):
            for total, medians in zip(seconds, alternately(rehearsals, name, times), strict=True):
                total |= medians
        costs = [with_seconds(cost, measured) for cost, measured in zip(costs, seconds, strict=True)]
    told = costs[0] if compare is None else {"base": costs[0], "compared": costs[1]}
    put_out(format, told, lambda console: show_table(console, cost_table(costs, compare)))


def changed(config: DictConfig, compare: Mapping[str, object]) -> DictConfig:
    """The config with other settings. Raises InputError."""
    path = ",".join(as_typed(place) for place in config.hydra.searchpath)
    settings = [f"{key}={as_typed(value)}" for key, value in compare.items()]
    other = compose([*overrides(config), f"hydra.searchpath=[{path}]", *settings])
    check(other)
    if other.task != config.task:
        raise InputError("task.compare", "compares trainings; it cannot change the task")
    return other


def alternately(rehearsals: Sequence[Rehearsal], name: str, times: int) -> list[dict[str, float]]:
    """For each rehearsal the medians of so many measurements, taken in turns."""
    found: list[list[dict[str, float]]] = [[] for _ in rehearsals]
    for _ in range(times):
        for rehearsal, measured in zip(rehearsals, found, strict=True):
            rehearsal.use()
            measured.append(getattr(rehearsal, f"time_{name}")())
    return [{key: median(one[key] for one in measured) for key in measured[0]} for measured in found]


def with_seconds(cost: dict, seconds: dict[str, float]) -> dict:
    """All of it: what was counted, what was measured, and what follows from both."""
    step = seconds["step"]
    epoch = cost["steps_an_epoch"] * step + seconds["evaluation"]
    epoch += cost["events_an_epoch"] * seconds.get("meta_event", 0.0)
    return {
        **cost,
        "seconds": {**seconds, "epoch": epoch, "schedule": cost["epochs"] * epoch},
        "images_per_second": cost["batch_size"] / step,
        "share_of_multi_adds_rate": cost["step_multi_adds"] / step / cost["multi_adds_rate"],
        "share_of_copy_rate": cost["step_bytes"] / step / cost["copy_rate"],
    }
