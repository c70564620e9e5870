"""The report's tables on the terminal."""

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as ScreenTable
from rich.text import Text

from mcl_lab.host.screen import table as screen_table
from mcl_lab.host.text import plain_text, spelt_out
from mcl_lab.results import formats
from mcl_lab.results.report import Section, Table

METHOD_WIDTH = 14  # of its column, at least
# What a narrow terminal does without, in this order.
LAYOUTS = (
    (formats.PLAIN, ()),
    (formats.PLAIN, ("published gain",)),
    (formats.NARROW, ("published gain",)),
    (formats.NARROW, ("published gain", "published baseline")),
)


def show_report(console: Console, tables: formats.Tables) -> None:
    """Print the tables, as wide as the terminal is if they can be."""
    for metric, of_metric in tables.items():
        for table in of_metric:
            console.print()
            caption = f"{formats.caption(metric)}: {plain_text(table.title)}"
            console.print(Text(spelt_out(caption, console.encoding), "bold"))
            for remark in table.remarks:
                console.print(plain_text(remark))
            for section in table.sections:
                console.print()
                drawn, width = _fitting(table, section, console)
                console.print(drawn, width=width, crop=False)
            for line in _below(table):
                console.print(line)


def _below(table: Table) -> list[str]:
    notes = [f"[{number}] {note}" for number, note in enumerate(table.notes, start=1)]
    return ["", *map(plain_text, [*notes, *table.missing])] if notes or table.missing else []


def _fitting(table: Table, section: Section, console: Console) -> tuple[ScreenTable, int]:
    """The table in the first layout that is no wider than the console, else in the last; and the width it needs."""
    for style, without in LAYOUTS:
        drawn = _drawn(table, section, style, without, console.encoding)
        needed = Console(width=10_000).measure(drawn).minimum
        if needed <= console.width:
            return drawn, console.width
    return drawn, needed


def _drawn(
    table: Table, section: Section, style: formats.Style, without: tuple[str, ...], encoding: str
) -> ScreenTable:
    """Only the words for a method may be folded, nothing is cut off."""
    made = screen_table(None, [], [], narrow=True)
    heads = [f"\n{section.title}", *(["\nmethod"] if section.methods else [])]
    texts = len(heads)
    for column in formats.columns(section, without=without):
        name = formats.named(column, section)
        if column.group == "published":
            heads.append("publ.\n" + {"baseline": "base", "accuracy": "acc."}.get(name, name))
        else:
            heads.append(f"{column.group}\n{name}")
    rows = [
        [spelt_out(cell, encoding) for cell in cells]
        for _, cells in formats.cells(table, section, style, without=without)
    ]
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
