"""What task=export has made."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from mcl_lab.host.screen import show_table, table


def show_export(
    console: Console,
    names: Mapping[str, str],
    compared_on: str,
    files: Sequence[Mapping],
    folder: Path | None,
    models: Mapping[str, str],
) -> None:
    """Print how the files compare with the network that they are of, and where they and the models in MLflow are.

    names: `KEY: NETWORK` by peer. files: see export.comparison.ComparedFile, with the key of their `peer`. folder: they are in;
    None when none was written. models: addresses by peer.
    """
    made = table(f"Compared on {compared_on}", ["peer", "file"], ["MB", "top-1", "max difference\nof logits"])
    for row in files:
        size = "" if row["bytes"] is None else f"{row['bytes'] / 2**20:.2f}"
        top1 = "" if row["top1"] is None else f"{row['top1']:.2f}"
        difference = "" if row["max_difference"] is None else f"{row['max_difference']:.1e}"
        made.add_row(names[row["peer"]], row["file"] or "(as trained)", size, top1, difference)
    show_table(console, made)
    if folder is not None:
        console.print(f"exported to {folder}", soft_wrap=True)
    for key, address in models.items():
        console.print(f"{names[key]} in MLflow: mlflow.pytorch.load_model({address!r})", soft_wrap=True)
