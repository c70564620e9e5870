"""Finished runs on disk, and what of them can be compared."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

HEADLINE = "own_head_last_epoch"


def read_result(folder: Path) -> dict | None:
    """The result.json of a run folder; None when the run is not finished."""
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_results(runs: Path) -> list[dict]:
    """The results of all finished runs in a folder of run folders; what else lies there is passed over."""
    results = (read_result(folder) for folder in sorted(runs.iterdir()) if folder.is_dir())
    return [
        result for result in results if isinstance(result, dict) and {"loss", "recipe_key", "peers"} <= result.keys()
    ]


def baseline_accuracies(results: Sequence[Mapping], like: Mapping, network: Mapping) -> list[float]:
    """The headline accuracy (%) of `network` (a peer's node of the config) trained alone: for each run the mean of its equals.

    like: the result to compare with; only runs of the same data, schedule, optimizer and precision count (`recipe_key`).
    """
    comparable = [result for result in results if (result["loss"], result["recipe_key"]) == ("baseline", like["recipe_key"])]
    equals = [[peer[HEADLINE] for peer in result["peers"].values() if peer["config"] == network] for result in comparable]
    return [mean(accuracies) for accuracies in equals if accuracies]
