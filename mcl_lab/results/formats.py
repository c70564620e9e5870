"""Tables as text: Markdown, CSV and LaTeX, and the cells that the terminal's table has as well."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mcl_lab.host.text import plain_text
from mcl_lab.results.report import Line, Row, Section, Table
from mcl_lab.results.reported_runs import Sample
from mcl_lab.runs.result import FINAL_METRICS

Tables = Mapping[str, Sequence[Table]]  # by the metric they show

CAPTIONS = ("own head, last epoch", "own head, best epoch", "best of all heads and epochs", "ensemble, last epoch")
METRICS = dict(zip(FINAL_METRICS, CAPTIONS, strict=True))
NONE = "–"  # there is no such number


class Style(NamedTuple):
    """How a format writes what a cell can hold."""

    text: Callable[[str], str]  # any name, made safe
    sample: Callable[[Sample], str] = lambda sample: _spread(sample, " ± ") + f" ({sample.n})"
    marks: Callable[[Sequence[int]], str] = lambda marks: f" [{','.join(map(str, marks))}]"
    gain: Callable[[float], str] = "{:+.2f}".format
    none: str = NONE
    also: str = "& "  # before the other networks of a cohort


PLAIN = Style(plain_text)
NARROW = PLAIN._replace(sample=lambda sample: _spread(sample, "±") + f" ({sample.n})")


class Column(NamedTuple):
    name: str
    group: str  # what stands above it
    cell: Callable[[Line, Style], str]


def columns(section: Section, *, without: Sequence[str] = ()) -> list[Column]:
    """The columns of a section's table after that of the networks; those of published numbers when it has any."""
    published = any(line.published for row in section.rows for line in row.lines)
    made = [
        Column("baseline", "published", lambda line, style: _two_digits(line.published and line.published.baseline, style)),
        Column("accuracy", "published", lambda line, style: _two_digits(line.published and line.published.accuracy, style)),
        Column("gain", "published", _published_gain),
    ] if published else []  # fmt: skip
    made += [
        Column(
            "baseline (n)", "ours", lambda line, style: style.sample(line.baseline) if line.baseline else style.none
        ),
        Column("accuracy (n)", "ours", _ours),
        Column("gain", "ours", lambda line, style: style.none if line.gain is None else style.gain(line.gain)),
    ]
    return [column for column in made if f"{column.group} {column.name}" not in without]


def cells(table: Table, section: Section, style: Style, **options: Sequence[str]) -> Iterator[tuple[Row, list[str]]]:
    """The printed lines of a section: the networks of a row each have one; a row's method and marks are on its first."""
    for row in section.rows:
        for number, line in enumerate(row.lines):
            network = (style.also if number else "") + style.text(line.network)
            marks = style.marks(table.marks(row)) if row.notes and not number else ""
            method = [style.text(row.method) if not number else ""] if section.methods else []
            values = [column.cell(line, style) for column in columns(section, **options)]
            yield row, [network + marks, *method, *values]


def caption(metric: str) -> str:
    """What the numbers are."""
    return f"Test accuracy (%), {METRICS[metric]}, mean ± std (n seeds)"


def markdown(tables: Tables) -> str:
    """Headings, pipe tables, and the notes as numbered lists."""
    style = Style(_markdown_text, marks=lambda marks: f"<sup>{','.join(map(str, marks))}</sup>")
    lines = []
    for metric, table in _each(tables):
        lines += [f"### {_markdown_text(table.title)}", "", f"{caption(metric)}.", ""]
        for remark in table.remarks:
            lines += [f"{_capital(_markdown_text(remark))}.", ""]
        for section in table.sections:
            shown = columns(section)
            heads = [section.title, *(["method"] if section.methods else [])]
            lines.append(_piped([*heads, *(f"{column.group} {named(column, section)}" for column in shown)]))
            lines.append(_piped([*(":--" for _ in heads), *("--:" for _ in shown)]))
            lines += [_piped(line) for _, line in cells(table, section, style)]
            lines.append("")
        lines += [f"{number}. {_markdown_text(note)}" for number, note in enumerate(table.notes, start=1)]
        lines += [""] if table.notes else []
        for words in table.missing:
            lines += [f"{_capital(_markdown_text(words))}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def latex(tables: Tables) -> str:
    """A table environment for each section, in the style of booktabs, with its notes below."""
    style = Style(
        _latex_text,
        sample=lambda sample: "$" + _spread(sample, r" \pm ") + f"$ ({sample.n})",
        marks=lambda marks: f"$^{{{','.join(map(str, marks))}}}$",
        gain="${:+.2f}$".format,
        none="--",
        also=r"\& ",
    )
    lines = [r"% needs \usepackage{booktabs}"]
    for metric, table in _each(tables):
        for section in table.sections:
            lines += ["", *_latex_table(metric, table, section, style)]
        lines += [f"% {plain_text(words)}" for words in table.missing]
    return "\n".join(lines) + "\n"


# The third column, the metric, keeps the name by which other programs read it.
CSV_FIELDS = [
    "dataset", "recipe", "figure", "section", "pair", "network", "method",
    "published_baseline", "published", "baseline_mean", "baseline_std", "baseline_n", "mean", "std", "n", "gain", "notes",
]  # fmt: skip


def as_csv(tables: Tables) -> str:
    """One line a network of a row, numbers at full precision; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for metric, table in _each(tables):
        for section in table.sections:
            for row in section.rows:
                for line in row.lines:
                    names = [table.dataset, table.title, metric, section.title, row.pair, line.network, row.method]
                    numbers = [*(line.published or (None, None)), *(line.baseline or [None] * 3)]
                    numbers += [*(line.ours or [None] * 3), line.gain]
                    writer.writerow([*map(plain_text, names), *numbers, plain_text("; ".join(row.notes))])
    return text.getvalue()


def _latex_table(metric: str, table: Table, section: Section, style: Style) -> Iterator[str]:
    """The lines of a section's table environment."""
    shown = columns(section)
    texts = 2 if section.methods else 1
    published = sum(column.group == "published" for column in shown)
    words = ". ".join([f"{section.title}, {table.title}", caption(metric), *map(_capital, table.remarks)])
    yield from (r"\begin{table}", r"  \centering", f"  \\caption{{{_latex_text(words)}.}}")
    yield from (f"  \\begin{{tabular}}{{{'l' * texts}{'r' * len(shown)}}}", r"    \toprule")
    if published:
        theirs = rf"\multicolumn{{{published}}}{{c}}{{published, CIFAR-100}}"
        ours = rf"\multicolumn{{{len(shown) - published}}}{{c}}{{ours}}"
        yield f"    {'& ' * texts}{theirs} & {ours} \\\\"
        last = texts + published
        yield rf"    \cmidrule(lr){{{texts + 1}-{last}}} \cmidrule(lr){{{last + 1}-{texts + len(shown)}}}"
    heads = ["network", *(["method"] if section.methods else [])]
    yield f"    {' & '.join([*heads, *(named(column, section) for column in shown)])} \\\\"
    yield r"    \midrule"
    yield from (f"    {' & '.join(line)} \\\\" for _, line in cells(table, section, style))
    yield from (r"    \bottomrule", r"  \end{tabular}")
    for mark in sorted({mark for row in section.rows for mark in table.marks(row)}):
        yield rf"  \par\smallskip{{\footnotesize $^{{{mark}}}$ {_latex_text(table.notes[mark - 1])}}}"
    yield r"\end{table}"


def _each(tables: Tables) -> Iterator[tuple[str, Table]]:
    for metric, of_metric in tables.items():
        for table in of_metric:
            yield metric, table


def named(column: Column, section: Section) -> str:
    """What a published section calls the method."""
    return column.name if section.methods else column.name.replace("accuracy", "L-MCL")


def _ours(line: Line, style: Style) -> str:
    if line.ours:
        return style.sample(line.ours)
    return style.text(line.unfinished) or style.none


def _published_gain(line: Line, style: Style) -> str:
    return style.gain(line.published.accuracy - line.published.baseline) if line.published else style.none


def _two_digits(value: float | None, style: Style) -> str:
    return style.none if value is None else f"{value:.2f}"


def _spread(sample: Sample, sign: str) -> str:
    return f"{sample.mean:.2f}" + ("" if sample.std is None else f"{sign}{sample.std:.2f}")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _piped(parts: Sequence[str]) -> str:
    return f"| {' | '.join(parts)} |"


def _markdown_text(text: str) -> str:
    escaped = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", plain_text(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _latex_text(text: str) -> str:
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    words |= {letter: f"\\{letter}" for letter in "{}$&#_%"}
    words |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}", "±": r"$\pm$"}
    return "".join(words.get(letter, letter) for letter in plain_text(text))
