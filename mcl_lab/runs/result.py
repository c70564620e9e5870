"""What a run came to: its final metrics, from its epoch records, each under its own name, and the file that they are in.

The headline is `own_head_last_epoch`. A metric that is chosen by the test images is optimistic: the best epoch unless images
were held out for validation, and always `best_of_all_heads_and_epochs`, the one that the L-MCL authors' code reports.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcl_lab.host.files import read_json
from mcl_lab.runs.layout import RunFolder

HEADLINE = "own_head_last_epoch"
FINAL_METRICS = (HEADLINE, "own_head_best_epoch", "best_of_all_heads_and_epochs", "ensemble_last_epoch")
FINAL = "final/"  # what their names begin with where they stand beside other metrics


def read_result(folder: Path | str) -> dict[str, Any] | None:
    """The result.json of a run folder; None when the run is not finished, or something damaged the file. Raises OSError."""
    return read_json(RunFolder(folder).result)


def final_metrics(records: Sequence[dict], peers: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """For each peer, test accuracies in %:

    own_head_last_epoch: the network's own head after the last epoch.
    own_head_best_epoch, best_epoch: the own head at the epoch where it was best on the validation images, or on the test
        images when none were held out (the first such epoch).
    best_of_all_heads_and_epochs: the maximum over epochs and over all heads, auxiliary ones included.
    ensemble_last_epoch: the aggregator's ensemble after the last epoch, when there is one.

    records: the journal's epochs in order, with `metrics` named `test/<peer>/<head>` and `validation/<peer>/<head>`.
    """
    found = {}
    for peer in peers:
        own = [record["metrics"][f"test/{peer}/own_head"] for record in records]
        chosen_by = [
            record["metrics"].get(f"validation/{peer}/own_head", test)
            for record, test in zip(records, own, strict=True)
        ]
        best = chosen_by.index(max(chosen_by))
        last = records[-1]["metrics"]
        found[peer] = {
            HEADLINE: own[-1],
            "own_head_best_epoch": own[best],
            "best_epoch": records[best]["epoch"],
            "best_of_all_heads_and_epochs": max(
                value
                for record in records
                for name, value in record["metrics"].items()
                if name.startswith(f"test/{peer}/") and not name.endswith("/ensemble")
            ),
        }
        if f"test/{peer}/ensemble" in last:
            found[peer]["ensemble_last_epoch"] = last[f"test/{peer}/ensemble"]
    return found
