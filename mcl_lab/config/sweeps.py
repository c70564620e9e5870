"""Sweeps: from a command line, and the sweep files that it names, to the overrides of each run.

A sweep file is sweeps/NAME.yaml, here or in the folder of --config-dir:

    sweeps: [baseline]                             # the rows of other sweep files
    rows:                                          # and its own, each a small grid
      - {loss: lmcl, pair: [resnet32, resnet56]}   # by keys as on the command line, a list for several values
    with: {trainer.epochs: 200}                    # goes into every row
"""

import fnmatch
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Glob, Override

from mcl_lab.config.compose import CONF, options, parse, typed
from mcl_lab.config.nearest import nearest
from mcl_lab.config.yaml_aliases import refuse_multiplied
from mcl_lab.errors import InputError

SWEEPS = CONF.parent / "sweeps"
_KEY = re.compile(r"\+{0,2}[A-Za-z][\w./@]*")


def split_names(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names in `+sweeps=NAME` or `+sweeps=NAME,NAME`, and the other overrides."""
    named = [word for word in overrides if re.match(r"\+{0,2}sweeps=", word)]
    names = [name for word in named for name in word.partition("=")[2].split(",")]
    return names, [word for word in overrides if word not in named]


def expand(names: Sequence[str], overrides: Sequence[str], config_dir: Path | None = None) -> list[list[str]]:
    """The overrides of each run: those of every row of the named sweeps, each times what the command line lists.

    A key on the command line takes the place of the same key in a row; without names the command line is all there is.
    Raises InputError for a sweep file that is not there or not right, and for what cannot be enumerated.
    """
    folders = [CONF, *([config_dir] if config_dir else [])]
    given = parse(overrides)
    kept = {_bare_key(override) for override in given}
    runs = []
    for row in [row for name in names for row in _rows(name, folders)] if names else [{}]:
        words = [f"{key}={_alternatives_of(value)}" for key, value in row.items() if key.lstrip("+") not in kept]
        alternatives = {}  # a key that is typed twice counts as typed last
        for override in [*parse(words), *given]:
            alternatives[override.get_key_element()] = _alternatives(override, folders)
        runs += [list(words) for words in itertools.product(*alternatives.values())]
    if not runs:
        raise InputError("sweeps", f"{' and '.join(names)} has no rows")
    return [list(run) for run in dict.fromkeys(map(tuple, runs))]


def sweep_files(folders: Sequence[Path] = ()) -> dict[str, Path]:
    """All sweep files by name, those of the project and of `folders`/sweeps; of one name the first, as of options."""
    places = [SWEEPS, *(folder / "sweeps" for folder in folders)]
    found = [path for folder in reversed(places) for path in sorted(folder.glob("*.yaml"))]
    return {path.stem: path for path in found}


def _rows(name: str, folders: Sequence[Path], within: tuple[str, ...] = ()) -> list[dict]:
    files = sweep_files(folders)
    if name not in files:
        raise InputError(
            "sweeps", f"there is no sweep {name}{nearest(name, files)}; choose one of {', '.join(sorted(files))}"
        )
    if name in within:
        raise InputError("sweeps", f"{files[name]} takes in itself, through {' and '.join(within)}")
    try:
        text = files[name].read_text(encoding="utf-8")
        refuse_multiplied(text)
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError("sweeps", f"{files[name]} cannot be read: {error}") from error
    match content:
        case {**parts} if parts.keys() & {"sweeps", "rows"} and parts.keys() <= {"sweeps", "rows", "with"}:
            others, rows, common = parts.get("sweeps", []), parts.get("rows", []), parts.get("with", {})
        case _:
            raise InputError("sweeps", f"{files[name]} must hold sweeps, a list of names, or rows, a list of mappings")
    if not isinstance(others, list) or not isinstance(rows, list) or not all(map(_is_row, [*rows, common])):
        raise InputError("sweeps", f"{files[name]}: a row must be a mapping of keys as on the command line")
    taken_in = [row for other in others for row in _rows(str(other), folders, (*within, name))]
    return [row | common for row in [*taken_in, *rows]]


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and all(isinstance(key, str) and _KEY.fullmatch(key) for key in row)


def _bare_key(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _alternatives(override: Override, folders: Sequence[Path]) -> list[str]:
    """An override as it was typed, or one for each value that it lists."""
    if not override.is_sweep_override():
        return [typed(override)]
    key = override.get_key_element()
    value: Any = override.value()  # of which Hydra's types leave out the glob
    if isinstance(value, Glob):
        found = [name for name in sorted(options(override.key_or_group, folders)) if _matches(name, value)]
        if not found:
            raise InputError(_bare_key(override), f"no option matches {override.get_value_string()}")
        return [f"{key}={name}" for name in found]
    if not override.is_discrete_sweep():
        raise InputError(_bare_key(override), "an interval has no values to go through; list them, or use range(...)")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _matches(name: str, glob: Glob) -> bool:
    """As files in a folder: `*` leaves out what is in a subfolder, `single/*` takes it."""

    def any_of(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)

    return any_of(glob.include) and not any_of(glob.exclude)


def _alternatives_of(value: object) -> str:
    """A value of a row in Hydra's grammar, the items of its list as alternatives."""
    return ",".join(map(as_typed, value)) if isinstance(value, list) else as_typed(value)


def as_typed(value: object) -> str:
    """A plain value as one would type it after KEY=, quoted where Hydra's grammar asks for it."""
    match value:
        case None | True | False:
            return {None: "null", True: "true", False: "false"}[value]
        case int() | float():
            return str(value)
        case list():
            return "[" + ",".join(map(as_typed, value)) + "]"
        case dict():
            return "{" + ",".join(f"{key}:{as_typed(item)}" for key, item in value.items()) + "}"
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_/][\w./-]*", text) and text.lower() not in ("null", "true", "false", "inf", "nan")
    return text if plain else "'" + text.replace("'", "\\'") + "'"
