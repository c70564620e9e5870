"""Tables on the screen, the same everywhere."""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO, cast

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from mcl_lab.host.text import plain_text, spelt_out

WIDTH = 120  # of what goes into a file or a pipe


def screen() -> Console:
    """The terminal, or standard output as plain text."""
    console = Screen(highlight=False, markup=False)
    return (
        console
        if console.is_terminal
        else Screen(file=cast(TextIO, _Trimmed(sys.stdout)), highlight=False, markup=False, width=WIDTH)
    )


class Screen(Console):
    """A console that shows texts, stored ones too, without characters that a terminal obeys."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            if not control:
                text = "\n".join(map(plain_text, text.split("\n")))
            yield Segment(text, style, control)

    def render_str(self, text: str, **options: Any) -> Text:
        """In characters that the screen has, before widths are measured, so that columns stay straight."""
        return super().render_str(spelt_out(text, self.encoding), **options)


class _Trimmed:
    """A file without the spaces by which tables fill up their lines."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(re.sub(r" +\n", "\n", text))

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def table(title: str | None, names: Sequence[str], numbers: Sequence[str], *, narrow: bool = False) -> Table:
    """An empty table with columns of names, then of numbers, which are aligned right; nothing in it is folded.

    narrow: without an edge, and with one blank between columns.
    """
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    if narrow:
        made.show_edge = made.pad_edge = False
        made.padding = (0, 1, 0, 0)
    for name in names:
        made.add_column(name, no_wrap=True)
    for name in numbers:
        made.add_column(name, justify="right", no_wrap=True)
    return made


def width_of(made: Table) -> int:
    """Of a table of which nothing is cut off."""
    return Console(width=10_000).measure(made).maximum


def show_table(console: Console, made: Table) -> None:
    """Print a table whole, however narrow the console is: rich would narrow every column, numbers too, until some are gone."""
    needed = width_of(made)
    if needed > console.width:
        made.width = needed
    console.print(made, crop=False)


def say(text: str) -> None:
    """One line beside what a task prints, which may go into a file."""
    print(f"mcl_lab: {plain_text(text)}", file=sys.stderr)
