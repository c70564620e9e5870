"""The published tables' rows with ours beside them: one table for each recipe, so that nothing is mixed.

Over a network's equal peers a run counts by their mean, over seeds a row by mean and sample standard deviation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from mcl_lab.results.notes import notes_of, progress, remarks
from mcl_lab.results.published import (
    HETEROGENEOUS,
    HOMOGENEOUS,
    METHODS,
    Method,
    Published,
    PublishedRow,
    is_paper_data,
    row_of,
    title,
)
from mcl_lab.results.recipes import apart_from_paper, describe, told_apart
from mcl_lab.results.reported_runs import (
    ReportedRun,
    Sample,
    baselines,
    label_of,
    method_of,
    name_of,
    networks_of,
    sample,
    values_of,
)

Missing = Literal["note", "rows", "none"]
METHOD = "lmcl"  # the loss of the published tables
BASELINE_METRIC = {"ensemble_last_epoch": "own_head_last_epoch"}  # a baseline has no ensemble


@dataclass(frozen=True)
class Line:
    """One network of a row; accuracies in %."""

    network: str
    published: Published | None = None
    baseline: Sample | None = None
    ours: Sample | None = None
    unfinished: str = ""  # how the runs stand that would be ours

    @property
    def gain(self) -> float | None:
        return self.ours.mean - self.baseline.mean if self.ours and self.baseline else None


@dataclass(frozen=True)
class Row:
    """One cohort by one method; a line for each different network in it."""

    pair: str
    method: str
    lines: Sequence[Line]
    notes: Sequence[str] = ()
    runs: Sequence[ReportedRun] = ()  # of all seeds, finished or not
    baselines: Mapping[str, Sequence[ReportedRun]] = field(default_factory=dict)  # by the key of a line's first peer


@dataclass(frozen=True)
class Section:
    title: str
    rows: Sequence[Row]
    methods: bool = False  # whether the rows are of several methods


@dataclass(frozen=True)
class Table:
    """All runs of one recipe."""

    title: str
    remarks: Sequence[str]
    sections: Sequence[Section]
    missing: Sequence[str]
    dataset: str

    @property
    def rows(self) -> list[Row]:
        return [row for section in self.sections for row in section.rows]

    @property
    def notes(self) -> list[str]:
        """Those of all rows, each once; a row's mark is a note's place in this list, counted from 1."""
        return list(dict.fromkeys(note for row in self.rows for note in row.notes))

    def marks(self, row: Row) -> list[int]:
        """The numbers of a row's notes."""
        return [self.notes.index(note) + 1 for note in row.notes]


class Scope(NamedTuple):
    """What the rows of one recipe are made from."""

    runs: Sequence[ReportedRun]  # that the report is about
    everything: Sequence[ReportedRun]  # where baselines are looked for that are not among them
    metric: str  # which of a run's final metrics

    @property
    def baseline_metric(self) -> str:
        return BASELINE_METRIC.get(self.metric, self.metric)


def tables(
    chosen: Sequence[ReportedRun], everything: Sequence[ReportedRun], metric: str, missing: Missing = "note"
) -> list[Table]:
    """A table for each recipe among the chosen runs, those of CIFAR-100 and nearest to the paper first.

    everything: where baselines are looked for that are not among the chosen. metric: which of a run's final metrics.
    missing: published rows of which there is no run, and baselines, are named in the table's `missing`, or not (none); with
    rows the published rows are there too, empty.
    """
    recipes = list({run.recipe_key: run for run in chosen}.values())
    recipes.sort(key=lambda run: (not is_paper_data(run.recipe), run.dataset, len(apart_from_paper(run.recipe))))
    made = []
    for recipe in recipes:
        own = sorted((run for run in chosen if run.recipe_key == recipe.recipe_key), key=lambda run: run.seed)
        made.append(replace(_table(Scope(own, everything, metric), missing), title=_title(recipe, recipes)))
    return made


def _table(scope: Scope, missing: Missing) -> Table:
    groups: dict[str, list[ReportedRun]] = {}
    for run in scope.runs:
        groups.setdefault(run.repeat_key, []).append(run)
    found = {row: _rows_of(row, groups.values(), scope) for row in HOMOGENEOUS + HETEROGENEOUS}
    absent = [row for row in found if not found[row] and any(found.values())]  # of none at all: nobody is after them
    shown_empty = absent if missing == "rows" else []
    sections = []
    for name, wanted in (("Homogeneous pairs", HOMOGENEOUS), ("Heterogeneous pairs", HETEROGENEOUS)):
        rows = [made for row in wanted for made in found[row] or ([_empty(row)] if row in shown_empty else [])]
        sections.append(Section(name, rows))
    published = [row for section in sections for row in section.rows]
    sections.append(Section("Other runs", _other_rows(list(groups.values()), published, scope), methods=True))
    rows = [row for section in sections for row in section.rows]
    run = scope.runs[0]
    return Table(
        title="",
        remarks=remarks(run, scope.metric, published=any(line.published for row in rows for line in row.lines)),
        sections=[section for section in sections if section.rows],
        missing=[] if missing == "none" else _missing(rows, absent),
        dataset=run.dataset,
    )


def _rows_of(published: PublishedRow, groups: Iterable[Sequence[ReportedRun]], scope: Scope) -> list[Row]:
    """What there is of a published row; of a homogeneous pair that nobody trained yet, what its baseline came to."""
    rows = [_row(runs, scope, published) for runs in groups if _published_row(runs[0]) is published]
    return rows or _baseline_row(published, scope)


def _row(runs: Sequence[ReportedRun], scope: Scope, published: PublishedRow | None = None) -> Row:
    """Of runs that differ in the seed only; the lines in the order of the published row."""
    run, networks = runs[0], networks_of(runs[0])
    keys = list(networks)
    accuracies: Sequence[Published | None] = [None] * len(keys)
    if published:
        keys.sort(key=lambda key: published.networks.index(networks[key].network))
        accuracies = published.accuracies
    elif len(keys) == 1 and (method := _published_method(run)):
        accuracies = [method.accuracies]
    beside = {} if run.is_baseline else {key: _baselines(run, key, scope) for key in keys}
    waiting = [other for other in runs if not other.finished]
    lines = [
        Line(
            network=label_of(run, key),
            published=of_published,
            baseline=sample(values_of(scope.baseline_metric, beside.get(key, []), networks[key].config)),
            ours=sample(values_of(scope.metric, runs, networks[key].config)),
            unfinished=_waiting(waiting),
        )
        for key, of_published in zip(keys, accuracies, strict=True)
    ]
    return Row(run.pair, method_of(run), lines, notes_of(runs, beside), runs, beside)


def _baseline_row(published: PublishedRow, scope: Scope) -> list[Row]:
    """Of a homogeneous pair that nobody trained yet, what its baseline came to."""
    network, *others = published.networks
    for run in scope.runs if not others else []:
        for key, peer in run.peers.items():
            if run.is_baseline and peer.network == network and not run.changed_in(f"pair.peers.{key}"):
                found = _baselines(run, key, scope)
                accuracy = sample(values_of(scope.baseline_metric, found, peer.config))
                line = Line(title(network), published.accuracies[0], accuracy)
                return [Row(network, METHOD, [line], notes_of([], {key: found}), [], {key: found})]
    return []


def _empty(published: PublishedRow) -> Row:
    lines = [Line(title(name), own) for name, own in zip(published.networks, published.accuracies, strict=True)]
    return Row("_".join(published.networks), METHOD, lines)


def _other_rows(groups: Sequence[Sequence[ReportedRun]], published: Sequence[Row], scope: Scope) -> list[Row]:
    """Of runs that are in no published row, by cohort; with those of a published pair its row again, and what others
    published of it. Baselines that no row is set beside come last."""
    others = [runs for runs in groups if not _published_row(runs[0])]
    own = [_row(runs, scope) for runs in others if not runs[0].is_baseline]
    rows = []
    for pair in sorted({row.pair for row in own}):
        rows += sorted((row for row in [*own, *published] if row.pair == pair and row.runs), key=lambda row: row.method)
        rows += [
            Row(pair, f"{method.title}, published", [Line(title(method.network), method.accuracies)])
            for method in METHODS
            if method.network == pair and all(line.published != method.accuracies for row in own for line in row.lines)
        ]
    beside = {run.run_key for row in [*rows, *published] for found in row.baselines.values() for run in found}
    return rows + [_row(runs, scope) for runs in others if runs[0].is_baseline and runs[0].run_key not in beside]


def _waiting(runs: Sequence[ReportedRun]) -> str:
    """Unfinished runs in a table's cell, where there is no room for more than `epoch 120/300`; the row's note tells the rest."""
    if len(runs) == 1:
        return f"epoch {progress(runs[0], '/')}"
    return f"{len(runs)} unfinished" if runs else ""


def _baselines(run: ReportedRun, key: str, scope: Scope) -> list[ReportedRun]:
    config = run.peers[key].config
    return baselines(scope.runs, run, config) or baselines(scope.everything, run, config)


def _published_row(run: ReportedRun) -> PublishedRow | None:
    """The row that a run is one of, its loss and its networks being as they are published."""
    changed = [key for key in run.changed if key.startswith(("loss.", "pair."))]
    if run.loss != METHOD or changed:
        return None
    return row_of(peer.network for peer in run.peers.values())


def _published_method(run: ReportedRun) -> Method | None:
    """The other method whose numbers are published of a homogeneous cohort, by as many peers."""
    changed = [key for key in run.changed if key.startswith(("loss.", "pair."))]
    for method in [] if changed else METHODS:
        networks = [peer.network for peer in run.peers.values()]
        if method.loss == run.loss and networks == [method.network] * (method.peers or 0):
            return method
    return None


def _missing(rows: Sequence[Row], absent: Sequence[PublishedRow]) -> list[str]:
    bare = [name_of(row.runs[0], key) for row in rows for key, found in row.baselines.items() if not found]
    words = {
        "no runs yet": [" & ".join(map(title, row.networks)) for row in absent],
        "no baseline yet": dict.fromkeys(bare),
    }
    return [f"{word}: {', '.join(names)}" for word, names in words.items() if names]


def _title(run: ReportedRun, recipes: Sequence[ReportedRun]) -> str:
    """The recipe in words; with all that tells it from others of the same words."""
    words = describe(run.dataset, run.recipe)
    same = [other for other in recipes if describe(other.dataset, other.recipe) == words]
    if len(same) == 1:
        return words
    apart = told_apart([other.recipe for other in same])[same.index(run)]
    return f"{words}; {apart or run.recipe_key[:8]}"
