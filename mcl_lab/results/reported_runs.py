"""Runs as a report sees them, and what they come to over seeds."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mcl_lab.results.published import title
from mcl_lab.runs.records import RecordedRun


@dataclass(frozen=True)
class ReportedPeer:
    """One network of a run, and what it came to."""

    network: str  # its name
    config: Mapping[str, object]  # its node of the config
    metrics: Mapping[str, float] = field(default_factory=dict)  # test accuracies (%) by name; empty unless finished


@dataclass(frozen=True)
class ReportedRun:
    """A run as it is recorded, with what the rows of a table ask of it."""

    name: str
    run_key: str  # what decides the numbers
    repeat_key: str  # ... without the seed
    recipe_key: str  # ... without pair and loss either
    recipe: Mapping[str, object]  # its leaves
    changed: Mapping[str, str]  # what differs from the defaults of the chosen options, by dotted key
    pair: str
    kind: str  # single, homogeneous, heterogeneous
    loss: str
    dataset: str
    seed: int
    peers: Mapping[str, ReportedPeer]
    state: str  # running, finished, failed, interrupted, vanished
    message: str
    epochs: int | None  # recorded so far, of an unfinished run
    commit: str
    created_ms: int
    tags: Mapping[str, str]
    place: str  # where its record was read

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def is_baseline(self) -> bool:
        """Whether its networks were trained by the baseline's loss as it is."""
        return self.loss == "baseline" and not self.changed_in("loss")

    def changed_in(self, section: str) -> dict[str, str]:
        """What differs from the defaults in `loss`, `pair.peers.a`, ..., by the key within it."""
        prefix = f"{section}."
        return {key.removeprefix(prefix): value for key, value in self.changed.items() if key.startswith(prefix)}


def as_reported(record: RecordedRun) -> ReportedRun:
    """Raises KeyError, TypeError, ValueError, AttributeError or RecursionError for a record that lacks what a table needs: that
    of older code, or one that somebody else wrote."""
    tags = record.tags
    recipe = {**json.loads(tags["recipe"])}
    float(recipe.get("data.validation") or 0)  # the one leaf that is counted with
    peers = {
        key: ReportedPeer(
            network=str(node["name"]),
            config=node,
            metrics={
                name.removeprefix(f"{key}/"): value
                for name, value in record.final.items()
                if name.startswith(f"{key}/") and value is not None
            },
        )
        for key, node in sorted(json.loads(tags["peers"]).items())
    }
    return ReportedRun(
        name=record.name,
        run_key=record.run_key,
        repeat_key=tags["repeat_key"],
        recipe_key=tags["recipe_key"],
        recipe=recipe,
        changed={key: value for key, value in record.params.items() if "." in key},
        pair=tags["pair"],
        kind=tags["kind"],
        loss=tags["loss"],
        dataset=tags["dataset"],
        seed=int(tags["seed"]),
        peers=peers,
        state=record.state,
        message=record.message,
        epochs=record.epochs,
        commit=tags["git_commit"],
        created_ms=record.created_ms,
        tags=tags,
        place=record.place,
    )


class Sample(NamedTuple):
    """Accuracies (%) over seeds."""

    mean: float
    std: float | None  # of the sample, n - 1 in the denominator; None for one value
    n: int


def sample(values: Sequence[float]) -> Sample | None:
    """Mean and standard deviation; None of nothing."""
    if not values:
        return None
    return Sample(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def values_of(metric: str, runs: Iterable[ReportedRun], config: Mapping[str, object]) -> list[float]:
    """A metric of one network (by its node of the config), one value a finished run: the mean over its equal peers."""
    values = []
    for run in runs:
        equal = [peer for peer in run.peers.values() if peer.config == config]
        found = [peer.metrics[metric] for peer in equal if metric in peer.metrics]
        if found:
            values.append(statistics.fmean(found))
    return values


def baselines(runs: Iterable[ReportedRun], like: ReportedRun, config: Mapping[str, object]) -> list[ReportedRun]:
    """The runs, finished or not, of that network trained by the baseline's loss and the recipe of `like`: those in which it was
    alone when there are any, else those of a cohort, whose networks do not meet under that loss."""
    found = [
        run
        for run in runs
        if run.is_baseline
        and run.recipe_key == like.recipe_key
        and any(peer.config == config for peer in run.peers.values())
    ]
    alone = [run for run in found if run.kind == "single"]
    return alone or found


def once(runs: Iterable[ReportedRun]) -> list[ReportedRun]:
    """One run of each key: the finished one, the newest of several."""
    best: dict[str, ReportedRun] = {}
    for run in runs:
        other = best.get(run.run_key)
        if other is None or (run.finished, run.created_ms) > (other.finished, other.created_ms):
            best[run.run_key] = run
    return list(best.values())


def networks_of(run: ReportedRun) -> dict[str, ReportedPeer]:
    """The different networks of a run, each under the key of its first peer."""
    different: dict[str, ReportedPeer] = {}
    for key, peer in run.peers.items():
        if all(peer.config != other.config for other in different.values()):
            different[key] = peer
    return different


def name_of(run: ReportedRun, key: str) -> str:
    """A peer's network in words, with what was changed in it."""
    return title(run.peers[key].network) + _in_words(run.changed_in(f"pair.peers.{key}"))


def label_of(run: ReportedRun, key: str) -> str:
    """`name_of` all the peers that are equal to one; how many they are where it is no pair."""
    count = sum(peer.config == run.peers[key].config for peer in run.peers.values())
    return (f"{count} x " if count > 1 and len(run.peers) > 2 else "") + name_of(run, key)


def method_of(run: ReportedRun) -> str:
    """A run's loss in words, with what was changed in it."""
    alone = "" if not run.is_baseline or run.kind == "single" else ", together"
    return run.loss + alone + _in_words(run.changed_in("loss"))


def _in_words(changed: Mapping[str, str]) -> str:
    words = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in changed.items())
    return f" ({words})" if words else ""
