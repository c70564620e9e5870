"""What task=benchmark has measured, as a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from mcl_lab.host.screen import table

PARTS = ("data", "graph", "forward", "loss", "backward", "optimizer")


def cost_table(costs: Sequence[Mapping], compare: Mapping[str, object] | None) -> Table:
    """One column, or two and how many times the first is the second. costs: see benchmark.with_seconds."""
    numbers = ["" if compare is None else "as it is"]
    if compare is not None:
        numbers += [" ".join(f"{key}={value}" for key, value in compare.items()) or "again", "ratio"]
    shown = table(_title(costs[0]), [""], numbers)
    for name, values, write in _rows(costs):
        if any(value is not None for value in values):
            cells = ["" if value is None else write(value) for value in values]
            ratio = [f"{values[0] / values[1]:.2f}"] if len(values) == 2 and all(values) else []
            shown.add_row(name, *cells, *ratio, style="bold" if name in ("step", "meta event") else None)
    return shown


def _title(cost: Mapping) -> str:
    peers = " & ".join(cost["peers"].values())
    threads = f", threads: {cost['threads']}" if cost["device"] == "cpu" else ""
    how = f"batch {cost['batch_size']}, {cost['precision']}, {cost['device']}{threads}, images of noise"
    epoch = (
        f"an epoch: {cost['images']:,} training and {cost['test_images']:,} test images (task.images, task.test_images)"
    )
    return f"{cost['loss']} of {peers}\n{how}\n{epoch}"


def _rows(costs: Sequence[Mapping]) -> Iterator[tuple[str, list, Callable[[Any], str]]]:
    """(name, one value or None for each of the costs, how it is written)."""

    def values(*path: str) -> list:
        found: list = list(costs)
        for name in path:
            found = [None if one is None else one.get(name) for one in found]
        return found

    yield "step", values("seconds", "step"), _duration
    for part in PARTS:
        yield f"  {part}", values("seconds", part), _duration
    yield "meta event", values("seconds", "meta_event"), _duration
    yield "evaluation", values("seconds", "evaluation"), _duration
    yield "epoch", values("seconds", "epoch"), _duration
    yield f"{costs[0]['epochs']} epochs", values("seconds", "schedule"), _duration
    yield "images a second", values("images_per_second"), lambda value: f"{value:,.0f}"
    for name in ("step", "loss", "meta_event"):
        what = {"loss": "loss, forward and backward"}.get(name, name.replace("_", " "))
        yield f"operations of a {what}", values("operations", name), lambda value: f"{value:,}"
    yield "multi-adds of a step", values("step_multi_adds"), lambda value: f"{value / 1e9:,.1f} billion"
    yield "  of the device's rate", values("share_of_multi_adds_rate"), lambda value: f"{value:.0%}"
    yield "bytes of a step's operations", values("step_bytes"), _bytes
    yield "  of the device's copy rate", values("share_of_copy_rate"), lambda value: f"{value:.0%}"
    for name in ("step", "meta_event"):
        yield f"peak memory of a {name.replace('_', ' ')}", values("peak_memory", name), _bytes


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.2f} ms"
    if seconds < 120:
        return f"{seconds:.2f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
