"""What there is to choose from, group by group."""

from collections.abc import Mapping, Sequence

from rich.console import Console

from mcl_lab.config.catalogue import GROUPS, KINDS
from mcl_lab.host.screen import table
from mcl_lab.host.text import plain_text


def show_options(console: Console, groups: Mapping[str, Sequence[Mapping]]) -> None:
    """Print a table for each group, of pairs one for each kind. groups: the options of each, as in the JSON of task=list."""
    for group, options in groups.items():
        parts: dict[str, Sequence[Mapping]] = {GROUPS[group]: options}
        if group == "pair":
            parts = {words: [one for one in options if (one["kind"] or "") == kind] for kind, words in KINDS.items()}
        width = max((len(one["option"]) + 2 for one in options), default=0)
        for words, part in parts.items():
            if part:
                _show_part(console, f"{group}: {words}", part, width)


def _show_part(console: Console, title: str, options: Sequence[Mapping], width: int) -> None:
    has_runs = "runs" in options[0]
    made = table(title, [""], ["runs"] if has_runs else [])
    made.add_column("")  # which is folded
    made.columns[0].min_width = width
    made.show_header = has_runs
    for one in options:
        name = f"{one['option']} *" if one["default"] else one["option"]
        runs = ["?" if one["runs"] is None else str(one["runs"])] if has_runs else []
        where = f"(in {one['config_dir']})" if one["config_dir"] else ""
        line = plain_text(f"{one['line']} {where}".strip())  # before widths are counted
        made.add_row(plain_text(name), *runs, line)
    console.print(made)
