"""What there is to choose from: the options of every group, each with the line that its file begins with."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from mcl_lab.config.compose import CONF, options
from mcl_lab.config.sweeps import SWEEPS
from mcl_lab.config.yaml_aliases import refuse_multiplied

GROUPS = {
    "task": "what to do",
    "experiment": "a recipe, on top of all else",
    "pair": "the networks that learn together",
    "network": "one of a pair, as network@pair.peers.b=OPTION",
    "loss": "what is minimised",
    "data": "the images",
    "optimizer": "what updates all that learns",
    "schedule": "the learning rate over the epochs",
    "trainer": "device, precision, epochs",
    "tracking": "where runs are recorded",
    "hydra/launcher": "where the runs of a sweep go",
    "sweeps": "named lists of runs, as +sweeps=OPTION",
}
KINDS = {"homogeneous": "two of a kind", "heterogeneous": "two kinds", "single": "one alone", "": "others"}
HIDDEN = "Not used: mcl_lab has an option of this name."
_BEGINNING = 4096  # characters of a file in which its line is
_COMMAND = re.compile(r"@package|python run\.py")


class Option(NamedTuple):
    """An option of a group. line: what its file says of it. folder: the user's own that it is in, None for ours."""

    name: str
    line: str
    file: Path
    folder: Path | None


def catalogue(folders: Sequence[Path] = ()) -> dict[str, list[Option]]:
    """The options of each group, numbers in names by their size; those in a user's own `folders` after ours."""
    others = [folder for folder in folders if folder.resolve() not in (CONF, CONF.parent)]
    found = {}
    for group in GROUPS:
        found[group] = _options(group, SWEEPS.parent if group == "sweeps" else CONF, None)
        for folder in others:
            taken = {option.name for option in found[group]}
            own = _options(group, folder, folder)
            found[group] += [option._replace(line=HIDDEN) if option.name in taken else option for option in own]
    return found


@functools.cache
def default_options() -> dict[str, str]:
    """The option of each group that a run has when none is named; groups without one are left out."""
    files = [CONF / "config.yaml", CONF / "hydra_defaults.yaml"]
    entries = [entry for file in files for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["defaults"]]
    chosen = {name: option for entry in entries if isinstance(entry, dict) for name, option in entry.items()}
    return {name.removeprefix("override /"): option for name, option in chosen.items() if option is not None}


def first_line(text: str) -> str:
    """The first comment of a YAML file that is about it, no directive of Hydra and no command; or empty."""
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        said = line.lstrip("# ").strip()
        if said and not _COMMAND.match(said):
            return said
    return ""


def kind_of_pair(file: Path) -> str:
    """homogeneous, heterogeneous or single, by the peers that a file of the group pair names; or empty."""
    try:
        text = file.read_text(encoding="utf-8")
        refuse_multiplied(text)
        content = yaml.safe_load(text)
        named = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
        peers = [option for entry in named for key, option in entry.items() if re.search(r"network@.*peers\.", key)]
        peers += list((content.get("peers") or {}).values())
    except (OSError, ValueError, AttributeError, TypeError, RecursionError, yaml.YAMLError):
        return ""  # whoever composes it says what is wrong
    if len(peers) < 2:
        return "single" if peers else ""
    return "homogeneous" if all(peer == peers[0] for peer in peers) else "heterogeneous"


def _options(group: str, within: Path, own: Path | None) -> list[Option]:
    names = options(group, [within])
    if group == "sweeps":
        names = {name for name in names if "/" not in name}
    files = {name: within / group / f"{name}.yaml" for name in sorted(names, key=_by_numbers)}
    return [Option(name, _line_of(file), file, own) for name, file in files.items() if file.is_file()]


def _by_numbers(name: str) -> list[str | float]:
    """resnet8 before resnet20, and shufflenetv2_05x, which is 0.5x, before shufflenetv2_1x."""
    parts = re.split(r"([0-9]+)", name)
    return [float(re.sub("^0", "0.", part)) if index % 2 else part for index, part in enumerate(parts)]


def _line_of(file: Path) -> str:
    try:
        with open(file, encoding="utf-8", errors="replace") as content:
            return first_line(content.read(_BEGINNING))
    except OSError as error:
        return f"Cannot be read: {error.strerror}"
