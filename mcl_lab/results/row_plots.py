"""Figures of the rows of a report, drawn from their finished runs' epochs."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from mcl_lab.errors import InputError
from mcl_lab.host.screen import say
from mcl_lab.host.text import plain_text
from mcl_lab.results.plots import (
    Baseline,
    Curve,
    LayerWeights,
    accuracy_figure,
    layer_weights_figure,
    loss_figure,
    save,
)
from mcl_lab.results.report import Row, Table
from mcl_lab.results.rows import Peer, Run, name_of
from mcl_lab.runs.records import RunFolders

if TYPE_CHECKING:
    from mcl_lab.tracking.mlflow.reader import MlflowRuns

ARTIFACTS = "figures"  # where an MLflow run has them
ACCURACY = re.compile(r"test/\w+/own_head")
TERM = re.compile(r"train/(?!learning_rate$|seconds$|images_per_second$|evaluation_seconds$)([^/]+)")
WEIGHT = re.compile(r"layer_weights/(?P<i>\w+)\.(?P<k>\w+)-(?P<j>\w+)\.(?P<z>\w+)")

Epochs = Mapping[int, Mapping[str, float]]  # the metrics of a run by epoch
Reading = Callable[[Run], Epochs]


def draw_rows(tables: Sequence[Table], folder: Path, place: "MlflowRuns | RunFolders", attach: bool) -> None:
    """The figures of every row with a finished run, each in a subfolder named as its runs are but for the seed.

    place: where the runs were read. Unless that is run folders, each finished run of a row gets its figures as artifacts
    too when `attach`. Raises InputError("task.figures") when nothing can be written there, StoreUnavailable.
    """
    known: dict[str, Epochs] = {}

    def epochs_of(run: Run) -> Epochs:
        if run.place not in known:
            known[run.place] = {epoch["epoch"]: epoch["metrics"] for epoch in place.epochs(run.place, _is_drawn)}
        return known[run.place]

    drawn, attached = set(), 0
    for table in tables:
        for row in table.rows:
            runs = [run for run in row.runs if run.finished and epochs_of(run)]
            if not runs or runs[0].repeat_key in drawn:
                continue
            drawn.add(runs[0].repeat_key)
            files = _save(_figures(table, row, _Seeds(runs, epochs_of)), folder / _folder_name(runs[0]))
            if attach and not isinstance(place, RunFolders):
                for run in runs:
                    place.attach(run.place, files, ARTIFACTS)
                attached += len(runs)
    also = f", attached to {attached} MLflow runs" if attached else ""
    say(f"figures of {len(drawn)} rows are in {folder}{also}" if drawn else "there is no finished run to draw")


class _Seeds:
    """Runs that differ in the seed only, by the epochs that all of them have."""

    def __init__(self, runs: Sequence[Run], epochs_of: Reading):
        self.runs, self.epochs_of = runs, epochs_of
        self.epochs = sorted(set.intersection(*(set(epochs_of(run)) for run in runs)))
        self.names = sorted(epochs_of(runs[0])[self.epochs[-1]])  # MLflow has no order of its own

    def values(self, name: str) -> np.ndarray:
        """A metric, (seeds, E); NaN where it was not recorded."""
        recorded = [[self.epochs_of(run)[epoch].get(name) for epoch in self.epochs] for run in self.runs]
        return np.array(recorded, dtype=float)

    def curve(self, label: str, name: str) -> Curve:
        return Curve(plain_text(label), self.epochs, self.values(name))


def _figures(table: Table, row: Row, seeds: _Seeds) -> dict[str, Figure]:
    """By the names of their files."""
    run = seeds.runs[0]
    cohort = " & ".join(line.network for line in row.lines)
    numbers = ", ".join(str(run.seed) for run in seeds.runs)
    words = f"mean of seeds {numbers}" if len(seeds.runs) > 1 else f"seed {numbers}"
    mean = plain_text("; ".join([cohort, row.method, table.title, words]))
    title = mean + (" (band: least to greatest)" if len(seeds.runs) > 1 else "")
    made = {"accuracy": accuracy_figure(title, _peers(run, seeds), _baselines(row, run, seeds))}
    terms = {name: found[1] for name in seeds.names if (found := TERM.fullmatch(name)) and found[1] != "loss"}
    if terms:
        curves = [seeds.curve(term, name) for name, term in terms.items()]
        made["loss"] = loss_figure(title, curves, seeds.curve("their sum", "train/loss"))
    if pairs := _layer_weights(run, seeds):
        made["layer_weights"] = layer_weights_figure(mean, seeds.epochs, pairs)
    return made


def _peers(run: Run, seeds: _Seeds) -> list[Curve]:
    several = len(run.peers) > 1
    return [
        seeds.curve(f"{key}: {name_of(run, key)}" if several else name_of(run, key), f"test/{key}/own_head")
        for key in run.peers
    ]


def _baselines(row: Row, run: Run, seeds: _Seeds) -> list[Baseline]:
    """Of each different network, in the colour of its peer when there is but one."""
    curves = []
    for key, found in row.baselines.items():
        finished = [other for other in found if other.finished and seeds.epochs_of(other)]
        if finished:
            # Which of its peers that network is may differ from run to run; equal peers count by their mean.
            values = [
                np.mean([_Seeds([other], seeds.epochs_of).values(f"test/{peer}/own_head")[0] for peer in same], axis=0)
                for other in finished
                if (same := _equal(other, run.peers[key]))
            ]
            curve = Curve(
                plain_text(f"{name_of(run, key)} alone"), _Seeds(finished, seeds.epochs_of).epochs, np.array(values)
            )
            like = list(run.peers).index(key) if len(_equal(run, run.peers[key])) == 1 else None
            curves.append(Baseline(curve, like))
    return curves


def _equal(run: Run, peer: Peer) -> list[str]:
    return [key for key, other in run.peers.items() if other.config == peer.config]


def _layer_weights(run: Run, seeds: _Seeds) -> list[LayerWeights]:
    """For each two peers, the mean over seeds at each epoch, head by head, the own one last."""
    pairs: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for name in seeds.names:
        if found := WEIGHT.fullmatch(name):
            pairs.setdefault((found["i"], found["j"]), {})[found["k"], found["z"]] = name
    made = []
    for (i, j), names in pairs.items():
        rows, columns = (sorted({heads[side] for heads in names}, key=_depth) for side in (0, 1))
        values = np.full((len(seeds.epochs), len(rows), len(columns)), np.nan)
        for (k, z), name in names.items():
            values[:, rows.index(k), columns.index(z)] = seeds.values(name).mean(axis=0)
        labels = [plain_text(f"{key}: {name_of(run, key)}") for key in (i, j)]
        made.append(LayerWeights(*labels, *([_in_words(head) for head in heads] for heads in (rows, columns)), values))
    return made


def _save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [file for name, figure in figures.items() for file in save(figure, folder / name)]
    except OSError as error:
        raise InputError("task.figures", f"cannot write into {folder}: {error.strerror}") from error


def _is_drawn(name: str) -> bool:
    return any(kind.fullmatch(name) for kind in (ACCURACY, TERM, WEIGHT))


def _folder_name(run: Run) -> str:
    """`<pair>-<loss>-<first 8 digits of the key without the seed>`, fit to be a folder's name."""
    parts = (run.pair[:100], run.loss[:40], run.repeat_key[:8])  # from a store, where anything may stand
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.") or "unnamed" for part in parts)


def _depth(head: str) -> tuple[bool, int, str]:
    return head == "own_head", len(head), head


def _in_words(head: str) -> str:
    """`1` and `own`, of `stage1` and `own_head`."""
    return head.removeprefix("stage").removesuffix("_head")
