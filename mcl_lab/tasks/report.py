"""task=report: the published tables' rows with our runs beside them, and figures of their training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as ScreenTable
from rich.text import Text

from mcl_lab.errors import InputError, RunFailed, plain_text
from mcl_lab.results import formats
from mcl_lab.results.report import Section, Table, tables
from mcl_lab.results.rows import once
from mcl_lab.tasks.chosen import choose, read_runs
from mcl_lab.tasks.screen import say, screen
from mcl_lab.tracking.recorded import StoreUnavailable

WRITTEN = {"markdown": formats.markdown, "csv": formats.as_csv, "latex": formats.latex}
METHOD_WIDTH = 14  # of its column, at least
# What a narrow terminal does without, in this order.
LAYOUTS = (
    (formats.PLAIN, ()),
    (formats.PLAIN, ("published gain",)),
    (formats.NARROW, ("published gain",)),
    (formats.NARROW, ("published gain", "published baseline")),
)


def report(
    config: DictConfig,
    *,
    format: Literal["table", "markdown", "csv", "latex"] = "table",
    figure: Literal[
        "own_head_last_epoch", "own_head_best_epoch", "best_of_all_heads_and_epochs", "ensemble_last_epoch", "all"
    ] = "own_head_last_epoch",
    missing: Literal["note", "rows", "none"] = "note",
    dataset: str | None = None,
    sweep: Annotated[str, "not empty"] | None = None,
    tag: Mapping[str, str | int | float | bool] | None = None,
    source: Literal["auto", "mlflow", "folders"] = "auto",
    runs: Annotated[str, "not empty"] = "runs",
    figures: Annotated[str, "not empty"] | None = None,
    attach: bool = True,
) -> None:
    """Print a table for each recipe; what was read, and what is odd about it, goes to stderr.

    dataset, sweep, tag: which runs; all, when none is given. A baseline that is not among them still stands beside them.
    figures: a folder to draw into, a subfolder for each row. attach: the figures to the MLflow runs they are of, too, when
    MLflow is what was read.

    Raises InputError, and RunFailed when MLflow goes away in between.
    """
    place, read = read_runs(config, source, Path(runs))
    say(f"{len(read)} runs read from {place}")
    if not read:
        raise InputError(
            "task.runs", f"there are no runs in {place}; train one, or name another task.source or task.runs"
        )
    everything = once(read)
    if len(everything) < len(read):
        say(f"{len(read) - len(everything)} of them are there more than once; the newest finished one counts")
    wanted = OmegaConf.to_container(tag) if OmegaConf.is_config(tag) else tag or {}
    chosen = choose(everything, dataset=dataset, sweep=sweep, tag=wanted, folder=Path(runs))
    shown = list(formats.FIGURES) if figure == "all" else [figure]
    made = {name: tables(chosen, everything, name, missing) for name in shown}
    if format == "table":
        show(made, screen())
    else:
        print(WRITTEN[format](made), end="")
    if figures is not None:
        from mcl_lab.tasks.draw import draw_rows  # matplotlib takes its time

        try:
            draw_rows(made[shown[0]], Path(figures), place, attach)
        except StoreUnavailable as error:
            raise RunFailed(f"not all figures are drawn and attached: {error}") from error


def show(made: formats.Tables, console: Console) -> None:
    """The tables on the terminal, as wide as it is if they can be."""
    for name, of_figure in made.items():
        for table in of_figure:
            console.print()
            console.print(Text(f"{formats.caption(name)}: {plain_text(table.title)}", "bold"))
            for remark in table.remarks:
                console.print(plain_text(remark))
            for section in table.sections:
                console.print()
                drawn, width = _fitting(table, section, console.width)
                console.print(drawn, width=width, crop=False)
            for line in _below(table):
                console.print(line)


def _below(table: Table) -> list[str]:
    notes = [f"[{number}] {note}" for number, note in enumerate(table.notes, start=1)]
    return ["", *map(plain_text, [*notes, *table.missing])] if notes or table.missing else []


def _fitting(table: Table, section: Section, width: int) -> tuple[ScreenTable, int]:
    """The table in the first layout that is no wider than `width`, else in the last; and the width it needs."""
    for style, without in LAYOUTS:
        drawn = _drawn(table, section, style, without)
        needed = Console(width=10_000).measure(drawn).minimum
        if needed <= width:
            return drawn, width
    return drawn, needed


def _drawn(table: Table, section: Section, style: formats.Style, without: tuple[str, ...]) -> ScreenTable:
    """Only the words for a method may be folded, nothing is cut off."""
    made = ScreenTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    heads = [f"\n{section.title}", *(["\nmethod"] if section.methods else [])]
    texts = len(heads)
    for column in formats.columns(section, without=without):
        name = formats.named(column, section)
        if column.group == "published":
            heads.append("publ.\n" + {"baseline": "base", "accuracy": "acc."}.get(name, name))
        else:
            heads.append(f"{column.group}\n{name}")
    rows = [cells for _, cells in formats.cells(table, section, style, without=without)]
    for place, head in enumerate(heads):
        width = max(cell_len(text) for text in [*head.split("\n"), *(cells[place] for cells in rows)])
        folded = place == 1 and section.methods
        made.add_column(
            head,
            justify="left" if place < texts else "right",
            min_width=min(width, METHOD_WIDTH) if folded else width,
            overflow="fold",
        )
    for cells in rows:
        made.add_row(*cells)
    return made
