"""What has to be said beside numbers: what they may not be compared with, which runs are not finished, which code is another."""

import re
from collections.abc import Mapping, Sequence

from mcl_lab.results.published import is_paper_data
from mcl_lab.results.recipes import apart_from_paper
from mcl_lab.results.reported_runs import ReportedRun

MESSAGE = 80  # characters of a failed run's last words
THEN = " then "  # between the commits of a run that other code went on with


def remarks(run: ReportedRun, metric: str, *, published: bool) -> list[str]:
    """What is to be known before a column is compared with another; `published`: whether there are published accuracies."""
    found = []
    if published and not is_paper_data(run.recipe):
        found.append(f"published numbers are of CIFAR-100, ours of {run.dataset}: compare the gains")
    if published and (different := apart_from_paper(run.recipe)):
        found.append(f"not the paper's recipe: {'; '.join(different)}")
    if published and metric != "best_of_all_heads_and_epochs":
        found.append("published numbers are the best of all heads and epochs, ours are not")
    if metric == "ensemble_last_epoch":
        found.append("a baseline has no ensemble: its own head stands beside ours")
    return found


def notes_of(runs: Sequence[ReportedRun], beside: Mapping[str, Sequence[ReportedRun]]) -> list[str]:
    """What is to be known of a row: which runs are not finished, and whether the others come from the same code."""
    all_beside = list({run.run_key: run for found in beside.values() for run in found}.values())
    notes = [
        f"not finished: {'; '.join(f'{run.name} ({_standing(run)})' for run in waiting)}"
        for part in [runs, *beside.values()]
        if (waiting := [run for run in part if not run.finished])
    ]
    return list(dict.fromkeys([*notes, *_code(runs, all_beside)]))


def progress(run: ReportedRun, of: str) -> str:
    """How many of its epochs an unfinished run has done: `120 of 300`."""
    return f"{run.epochs}{of}{run.recipe.get('trainer.epochs')}"


def _standing(run: ReportedRun) -> str:
    """`running, epoch 120 of 300`, and of a failed run why."""
    words = f"{run.state}, epoch {progress(run, ' of ')}"
    return words + (f": {run.message[:MESSAGE]}" if run.state == "failed" and run.message else "")


def _code(runs: Sequence[ReportedRun], beside: Sequence[ReportedRun]) -> list[str]:
    """A note when the finished runs of a row do not all come from one commit and nothing else."""
    seeds: dict[str, dict[str, list[int]]] = {}
    for word, part in (("seed", runs), ("baseline seed", beside)):
        for run in part:
            if run.finished:
                seeds.setdefault(run.commit, {}).setdefault(word, []).append(run.seed)
    words = [f"{_short(commit)} ({', '.join(map(_listed, of_code.items()))})" for commit, of_code in seeds.items()]
    if len(seeds) > 1 or any(THEN in commit for commit in seeds):
        return [f"differing code: {'; '.join(words)}"]
    return [f"code that no commit tells: {_short(commit)}" for commit in seeds if not _is_commit(commit)]


def _listed(seeds: tuple[str, list[int]]) -> str:
    """`seeds 0, 1`; of baselines of several networks each seed once."""
    word, numbers = seeds[0], sorted(set(seeds[1]))
    return f"{word}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _is_commit(commit: str) -> bool:
    return re.fullmatch("[0-9a-f]{7,}", commit) is not None


def _short(commit: str) -> str:
    return re.sub(r"\b([0-9a-f]{7})[0-9a-f]+", r"\1", commit)
