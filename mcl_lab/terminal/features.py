"""What task=features has found out."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from mcl_lab.host.screen import show_table, table

ACCURACIES = ("knn", "linear_probe", "own_head")


def show_features(
    console: Console, dataset: str, train_images: int, k: int, peers: Mapping[str, Mapping], folder: Path
) -> None:
    """Print the accuracies (%) that the embeddings of each peer allow, and the folder of these. peers: as in the task's JSON."""
    title = f"Test accuracy (%) on {dataset}, {train_images:,} training images"
    made = table(title, ["peer", "file"], ["width", f"{k}-NN", "linear\nprobe", "own\nhead"])
    for key, row in peers.items():
        accuracies = ("" if row[name] is None else f"{row[name]:.2f}" for name in ACCURACIES)
        made.add_row(f"{key}: {row['network']}", row["file"], f"{row['width']:,}", *accuracies)
    show_table(console, made)
    console.print(f"embeddings in {folder}", soft_wrap=True)
