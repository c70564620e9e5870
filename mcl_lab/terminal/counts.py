"""What task=summary has counted."""

from collections.abc import Mapping

from rich.console import Console

from mcl_lab.host.screen import show_table, table

COUNTS = ["stages", "width", "parameters", "multi-adds", "parameters\nwith branches", "multi-adds\nwith branches"]


def show_counts(console: Console, told: Mapping) -> None:
    """Print parameters, multi-adds, width and stages of each peer. told: the task's JSON."""
    size = told["image_size"]
    made = table(
        f"Counted for {told['num_classes']} classes, one image of {size} x {size} (task.num_classes, task.image_size)",
        ["peer"],
        COUNTS,
    )
    for key, (network, *counts) in ((key, peer.values()) for key, peer in told["peers"].items()):
        made.add_row(f"{key}: {network}", *(f"{count:,}" for count in counts))
    show_table(console, made)
