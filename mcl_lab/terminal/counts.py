"""What task=summary has counted."""

from collections.abc import Mapping

from rich.console import Console

from mcl_lab.host.screen import show_table, table

COUNTS = {
    "stages": "stages",
    "width": "width",
    "parameters": "parameters",
    "multi_adds": "multi-adds",
    "parameters_with_branches": "parameters\nwith branches",
    "multi_adds_with_branches": "multi-adds\nwith branches",
}


def show_counts(console: Console, told: Mapping) -> None:
    """Print parameters, multi-adds, width and stages of each peer, and how many are frozen. told: the task's JSON."""
    size = told["image_size"]
    made = table(
        f"Counted for {told['num_classes']} classes, one image of {size} x {size} (task.num_classes, task.image_size)",
        ["peer"],
        list(COUNTS.values()),
    )
    for key, peer in told["peers"].items():
        made.add_row(f"{key}: {peer['network']}", *(f"{peer[count]:,}" for count in COUNTS))
    show_table(console, made)
    for key, peer in told["peers"].items():
        if frozen := peer["frozen_parameters"]:
            with_branches = peer["frozen_parameters_with_branches"]
            console.print(
                f"{key}: {peer['network']}: {frozen:,} parameters are frozen, {with_branches:,} with branches"
            )
