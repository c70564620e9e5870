"""task=report: the published tables' rows with our runs beside them, and plots of their training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import DictConfig

from mcl_lab.errors import InputError, RunFailed
from mcl_lab.host.screen import say, screen
from mcl_lab.results import formats
from mcl_lab.results.report import tables
from mcl_lab.results.reported_runs import once
from mcl_lab.results.selection import choose, read_runs
from mcl_lab.runs.records import StoreUnavailable
from mcl_lab.terminal.report import show_report

WRITTEN = {"markdown": formats.markdown, "csv": formats.as_csv, "latex": formats.latex}


def report(
    config: DictConfig,
    *,
    format: Literal["table", "markdown", "csv", "latex"] = "table",
    metric: Literal[
        "own_head_last_epoch", "own_head_best_epoch", "best_of_all_heads_and_epochs", "ensemble_last_epoch", "all"
    ] = "own_head_last_epoch",
    missing: Literal["note", "rows", "none"] = "note",
    dataset: str | None = None,
    sweep: Annotated[str, "not empty"] | None = None,
    tag: Mapping[str, str | int | float | bool] | None = None,
    source: Literal["auto", "mlflow", "folders"] = "auto",
    runs: Annotated[str, "not empty"] = "runs",
    plots: Annotated[str, "not empty"] | None = None,
    attach: bool = True,
) -> None:
    """Print a table for each recipe; what was read, and what is odd about it, goes to stderr.

    dataset, sweep, tag: which runs; all, when none is given. A baseline that is not among them still stands beside them.
    plots: a folder to draw into, a subfolder for each row. attach: the plots to the MLflow runs they are of, too, when
    MLflow is what was read.

    Raises InputError, and RunFailed when MLflow goes away in between.
    """
    place, read = read_runs(config, source, Path(runs))
    say(f"{len(read)} runs read from {place}")
    if not read:
        raise InputError(
            "task.runs", f"there are no runs in {place}; train one, or name another task.source or task.runs"
        )
    everything = once(read)
    if len(everything) < len(read):
        say(f"{len(read) - len(everything)} of them are there more than once; the newest finished one counts")
    chosen = choose(everything, dataset=dataset, sweep=sweep, tag=dict(tag or {}), folder=Path(runs))
    shown = list(formats.METRICS) if metric == "all" else [metric]
    made = {name: tables(chosen, everything, name, missing) for name in shown}
    if format == "table":
        show_report(screen(), made)
    else:
        print(WRITTEN[format](made), end="")
    if plots is not None:
        from mcl_lab.results.report_plots import plot_rows  # matplotlib takes its time

        try:
            plot_rows(made[shown[0]], Path(plots), place, attach)
        except StoreUnavailable as error:
            raise RunFailed(f"not all plots are drawn and attached: {error}") from error
