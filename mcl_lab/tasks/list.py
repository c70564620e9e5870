"""task=list: what there is to choose from."""

from pathlib import Path
from typing import Annotated, Literal

from omegaconf import DictConfig

from mcl_lab.config.catalogue import GROUPS, Option, catalogue, default_options, kind_of_pair
from mcl_lab.config.nearest import nearest
from mcl_lab.config.sweeps import expand
from mcl_lab.errors import InputError
from mcl_lab.terminal.options import show_options
from mcl_lab.terminal.output import put_out


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
    put_out(format, found, lambda console: show_options(console, found))


def _described(group: str, option: Option) -> dict[str, str | int | bool | None]:
    described: dict[str, str | int | bool | None] = {
        "option": option.name,
        "line": option.line,
        "default": default_options().get(group) == option.name and option.folder is None,
        "config_dir": None if option.folder is None else str(option.folder),
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
