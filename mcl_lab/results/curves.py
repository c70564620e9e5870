"""What is plotted of a row, read from the epochs of its finished runs: curves, and layer-matching weights.

E epochs, S_i heads of peer i.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mcl_lab.host.text import plain_text
from mcl_lab.results.report import Row
from mcl_lab.results.reported_runs import ReportedPeer, ReportedRun, name_of
from mcl_lab.runs.journal import CLOCK

ACCURACY = re.compile(r"test/\w+/own_head")
TERM = re.compile(rf"(?!(?:train/learning_rate|{'|'.join(CLOCK)})$)train/([^/]+)")
WEIGHT = re.compile(r"layer_weights/(?P<i>\w+)\.(?P<k>\w+)-(?P<j>\w+)\.(?P<z>\w+)")

Epochs = Mapping[int, Mapping[str, float]]  # the metrics of a run by epoch
EpochsOf = Callable[[ReportedRun], Epochs]


class Curve(NamedTuple):
    """One quantity by epoch, of several seeds."""

    label: str
    epochs: Sequence[int]  # (E,)
    values: np.ndarray  # (seeds, E), NaN where nothing was recorded

    @property
    def mean(self) -> np.ndarray:
        return self.values.mean(axis=0)


class BaselineCurve(NamedTuple):
    """A curve that others are compared with: in the colour of one of them, `like`, or in grey."""

    curve: Curve
    like: int | None


class LayerWeights(NamedTuple):
    """The mean layer-matching weights between the heads of two peers."""

    rows: str  # the peer whose heads are the rows
    columns: str
    row_heads: Sequence[str]
    column_heads: Sequence[str]
    values: np.ndarray  # (E, S_i, S_j)


class Seeds:
    """Runs that differ in the seed only, by the epochs that all of them have."""

    def __init__(self, runs: Sequence[ReportedRun], epochs_of: EpochsOf):
        self.runs, self.epochs_of = runs, epochs_of
        self.epochs = sorted(set.intersection(*(set(epochs_of(run)) for run in runs)))
        self.names = sorted(epochs_of(runs[0])[self.epochs[-1]])  # MLflow has no order of its own

    def values(self, name: str) -> np.ndarray:
        """A metric, (seeds, E); NaN where it was not recorded."""
        recorded = [[self.epochs_of(run)[epoch].get(name) for epoch in self.epochs] for run in self.runs]
        return np.array(recorded, dtype=float)

    def curve(self, label: str, name: str) -> Curve:
        return Curve(plain_text(label), self.epochs, self.values(name))


def is_plotted(name: str) -> bool:
    """Whether a metric of that name is in any plot."""
    return any(kind.fullmatch(name) for kind in (ACCURACY, TERM, WEIGHT))


def accuracy_curves(seeds: Seeds) -> list[Curve]:
    """Test accuracies (%) of the own heads, a curve for each peer."""
    run = seeds.runs[0]
    labels = {key: f"{key}: {name_of(run, key)}" if len(run.peers) > 1 else name_of(run, key) for key in run.peers}
    return [seeds.curve(label, f"test/{key}/own_head") for key, label in labels.items()]


def baseline_curves(row: Row, seeds: Seeds) -> list[BaselineCurve]:
    """Of each different network, in the colour of its peer when there is but one."""
    run, curves = seeds.runs[0], []
    for key, found in row.baselines.items():
        finished = [other for other in found if other.finished and seeds.epochs_of(other)]
        if finished:
            # Which of its peers that network is may differ from run to run; equal peers count by their mean.
            values = [
                np.mean([Seeds([other], seeds.epochs_of).values(f"test/{peer}/own_head")[0] for peer in same], axis=0)
                for other in finished
                if (same := _equal(other, run.peers[key]))
            ]
            label = plain_text(f"{name_of(run, key)} alone")
            like = list(run.peers).index(key) if len(_equal(run, run.peers[key])) == 1 else None
            curve = Curve(label, Seeds(finished, seeds.epochs_of).epochs, np.array(values))
            curves.append(BaselineCurve(curve, like))
    return curves


def term_curves(seeds: Seeds) -> list[Curve]:
    """The weighted terms of the loss, without their sum."""
    terms = {name: found[1] for name in seeds.names if (found := TERM.fullmatch(name))}
    return [seeds.curve(term, name) for name, term in terms.items() if term != "loss"]


def layer_weights(seeds: Seeds) -> list[LayerWeights]:
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
        row_peer, column_peer = (plain_text(f"{key}: {name_of(seeds.runs[0], key)}") for key in (i, j))
        made.append(LayerWeights(row_peer, column_peer, _in_words(rows), _in_words(columns), values))
    return made


def _equal(run: ReportedRun, peer: ReportedPeer) -> list[str]:
    return [key for key, other in run.peers.items() if other.config == peer.config]


def _depth(head: str) -> tuple[bool, int, str]:
    return head == "own_head", len(head), head


def _in_words(heads: Sequence[str]) -> list[str]:
    """`1` and `own`, of `stage1` and `own_head`."""
    return [head.removeprefix("stage").removesuffix("_head") for head in heads]
