"""Runs as tables see them, and what they come to over seeds."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mcl_lab.results.published import title

Figure = Literal[
    "own_head_last_epoch", "own_head_best_epoch", "best_of_all_heads_and_epochs", "ensemble_last_epoch"
]  # of a finished run, for each peer


@dataclass(frozen=True)
class Peer:
    """One network of a run."""

    network: str  # its name
    config: Mapping[str, object]  # its node of the config
    figures: Mapping[str, float] = field(default_factory=dict)  # test accuracies (%) by name; empty unless finished


@dataclass(frozen=True)
class Run:
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
    peers: Mapping[str, Peer]
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


def of_network(runs: Iterable[Run], config: Mapping[str, object], figure: str) -> list[float]:
    """A figure of one network (by its node of the config), one value a finished run: the mean over its equal peers."""
    values = []
    for run in runs:
        found = [
            peer.figures[figure] for peer in run.peers.values() if peer.config == config and figure in peer.figures
        ]
        if found:
            values.append(statistics.fmean(found))
    return values


def baselines(runs: Iterable[Run], like: Run, config: Mapping[str, object]) -> list[Run]:
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


def once(runs: Iterable[Run]) -> list[Run]:
    """One run of each key: the finished one, the newest of several."""
    best: dict[str, Run] = {}
    for run in runs:
        other = best.get(run.run_key)
        if other is None or (run.finished, run.created_ms) > (other.finished, other.created_ms):
            best[run.run_key] = run
    return list(best.values())


def networks_of(run: Run) -> dict[str, Peer]:
    """The different networks of a run, each under the key of its first peer."""
    different: dict[str, Peer] = {}
    for key, peer in run.peers.items():
        if all(peer.config != other.config for other in different.values()):
            different[key] = peer
    return different


def name_of(run: Run, key: str) -> str:
    """A peer's network in words, with what was changed in it."""
    return title(run.peers[key].network) + _in_words(run.changed_in(f"pair.peers.{key}"))


def label_of(run: Run, key: str) -> str:
    """`name_of` all the peers that are equal to one; how many they are where it is no pair."""
    count = sum(peer.config == run.peers[key].config for peer in run.peers.values())
    return (f"{count} x " if count > 1 and len(run.peers) > 2 else "") + name_of(run, key)


def method_of(run: Run) -> str:
    """A run's loss in words, with what was changed in it."""
    alone = "" if not run.is_baseline or run.kind == "single" else ", together"
    return run.loss + alone + _in_words(run.changed_in("loss"))


def _in_words(changed: Mapping[str, str]) -> str:
    words = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in changed.items())
    return f" ({words})" if words else ""
