"""What task=evaluate has scored."""

from collections.abc import Mapping

from rich.console import Console

from mcl_lab.host.screen import show_table, table


def show_accuracies(console: Console, told: Mapping, networks: Mapping[str, str]) -> None:
    """Print accuracies (%) head by head. told: the task's JSON. networks: their names by peer."""
    title = f"Test accuracy (%) on {told['dataset']}, {told['images']:,} images"
    made = table(title, ["peer", "head"], ["top-1", "top-5"])
    for peer, heads in told["top1"].items():
        for head, top1 in heads.items():
            top5 = told["top5"][peer][head]
            style = "bold" if head == "own_head" else None
            made.add_row(f"{peer}: {networks[peer]}", head, f"{top1:.2f}", f"{top5:.2f}", style=style)
    show_table(console, made)
