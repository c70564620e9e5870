"""The plots of a report: for each row with finished runs its pictures, in a folder and as artifacts of the MLflow runs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from mcl_lab.errors import InputError
from mcl_lab.host.screen import say
from mcl_lab.host.text import plain_text
from mcl_lab.results.curves import (
    Epochs,
    Seeds,
    accuracy_curves,
    baseline_curves,
    is_plotted,
    layer_weights,
    term_curves,
)
from mcl_lab.results.plots import accuracy_plot, layer_weights_plot, loss_plot, save
from mcl_lab.results.report import Row, Table
from mcl_lab.results.reported_runs import ReportedRun
from mcl_lab.runs.records import RunFolders

if TYPE_CHECKING:
    from mcl_lab.tracking.mlflow.reader import MlflowRuns

ARTIFACTS = "figures"  # where an MLflow run has them; earlier reports attached them there


def plot_rows(tables: Sequence[Table], folder: Path, place: "MlflowRuns | RunFolders", attach: bool) -> None:
    """The plots of every row with a finished run, each in a subfolder named as its runs are but for the seed.

    place: where the runs were read. Unless that is run folders, each finished run of a row gets its plots as artifacts
    too when `attach`. Raises InputError("task.plots") when nothing can be written there, StoreUnavailable.
    """
    known: dict[str, Epochs] = {}

    def epochs_of(run: ReportedRun) -> Epochs:
        if run.place not in known:
            known[run.place] = {epoch["epoch"]: epoch["metrics"] for epoch in place.epochs(run.place, is_plotted)}
        return known[run.place]

    plotted, attached = set(), 0
    for table in tables:
        for row in table.rows:
            runs = [run for run in row.runs if run.finished and epochs_of(run)]
            if not runs or runs[0].repeat_key in plotted:
                continue
            plotted.add(runs[0].repeat_key)
            files = _save(_plots(table, row, Seeds(runs, epochs_of)), folder / _folder_name(runs[0]))
            if attach and not isinstance(place, RunFolders):
                for run in runs:
                    place.attach(run.place, files, ARTIFACTS)
                attached += len(runs)
    also = f", attached to {attached} MLflow runs" if attached else ""
    say(f"plots of {len(plotted)} rows are in {folder}{also}" if plotted else "there is no finished run to plot")


def _plots(table: Table, row: Row, seeds: Seeds) -> dict[str, Figure]:
    """By the names of their files."""
    cohort = " & ".join(line.network for line in row.lines)
    numbers = ", ".join(str(run.seed) for run in seeds.runs)
    several = len(seeds.runs) > 1
    words = f"mean of seeds {numbers}" if several else f"seed {numbers}"
    mean = plain_text("; ".join([cohort, row.method, table.title, words]))
    title = mean + (" (band: least to greatest)" if several else "")
    made = {"accuracy": accuracy_plot(title, accuracy_curves(seeds), baseline_curves(row, seeds))}
    if terms := term_curves(seeds):
        made["loss"] = loss_plot(title, terms, seeds.curve("their sum", "train/loss"))
    if pairs := layer_weights(seeds):
        made["layer_weights"] = layer_weights_plot(mean, seeds.epochs, pairs)
    return made


def _save(plots: Mapping[str, Figure], folder: Path) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [file for name, plot in plots.items() for file in save(plot, folder / name)]
    except OSError as error:
        raise InputError("task.plots", f"cannot write into {folder}: {error.strerror}") from error


def _folder_name(run: ReportedRun) -> str:
    """`<pair>-<loss>-<first 8 digits of the key without the seed>`, fit to be a folder's name."""
    parts = (run.pair[:100], run.loss[:40], run.repeat_key[:8])  # from a store, where anything may stand
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.") or "unnamed" for part in parts)
