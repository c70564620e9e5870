"""task=list: what there is to choose from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import DictConfig
from rich.console import Console

from mcl_lab.config.catalogue import GROUPS, KINDS, Option, catalogue, default_options, kind_of_pair
from mcl_lab.config.nearest import nearest
from mcl_lab.config.sweeps import expand
from mcl_lab.errors import InputError
from mcl_lab.host.screen import screen, table
from mcl_lab.host.text import plain_text


def list(
    config: DictConfig,
    *,
    group: Annotated[str, "not empty"] | None = None,
    format: Literal["table", "json"] = "table",
) -> None:
    """Print the options of each group, or of one, with the line that each file says of itself: of pairs the kind too,
    of sweeps the number of runs, and of an option of the user's own the folder it is in.

    Raises InputError("task.group") for a group that is not there.
    """
    if group is not None and group not in GROUPS:
        known = ", ".join(GROUPS)
        raise InputError("task.group", f"there is no {group}{nearest(group, GROUPS)}; choose one of {known}")
    paths = [Path(path.removeprefix("file://")) for path in config.hydra.searchpath]
    found = {
        name: [_described(name, option) for option in options]
        for name, options in catalogue(paths).items()
        if group in (None, name)
    }
    if format == "json":
        print(json.dumps(found, indent=2))
    else:
        for name, options in found.items():
            _show(screen(), name, options)


def _described(group: str, option: Option) -> dict[str, str | int | bool | None]:
    described = {
        "option": option.name,
        "line": option.line,
        "default": default_options().get(group) == option.name and option.folder is None,
        "config_dir": option.folder and str(option.folder),
    }
    if group == "pair":
        described["kind"] = kind_of_pair(option.file) or None
    if group == "sweeps":
        described["runs"] = _runs(option)
    return described


def _runs(sweep: Option) -> int | None:
    """How many runs a sweep has by itself; None for a file that is wrong."""
    try:
        return len(expand([sweep.name], [], sweep.folder))
    except InputError:
        return None


def _show(console: Console, group: str, options: Sequence[dict]) -> None:
    """A table, of pairs one for each kind."""
    parts = {GROUPS[group]: options}
    if group == "pair":
        parts = {words: [one for one in options if (one["kind"] or "") == kind] for kind, words in KINDS.items()}
    width = max((len(one["option"]) + 2 for one in options), default=0)
    for words, part in parts.items():
        if part:
            _show_part(console, f"{group}: {words}", part, width)


def _show_part(console: Console, title: str, options: Sequence[dict], width: int) -> None:
    shown = table(title, [""], ["runs"] if "runs" in options[0] else [])
    shown.columns[0].min_width = width
    shown.add_column("")
    shown.show_header = "runs" in options[0]
    for one in options:
        name = f"{one['option']} *" if one["default"] else one["option"]
        runs = ["?" if one["runs"] is None else str(one["runs"])] if "runs" in one else []
        where = f"(in {one['config_dir']})" if one["config_dir"] else ""
        shown.add_row(
            plain_text(name), *runs, plain_text(f"{one['line']} {where}".strip())
        )  # before widths are counted
    console.print(shown)
