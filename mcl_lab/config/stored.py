"""The config.yaml of a run folder: written, read back as input that may be hostile, and resumed from."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mcl_lab.config.check import check
from mcl_lab.config.compose import is_group, overrides, parse
from mcl_lab.config.differences import differences
from mcl_lab.config.former_names import with_names_now
from mcl_lab.config.identity import identity_of
from mcl_lab.config.plain import leaves, plain
from mcl_lab.config.schema import Trainer, add_defaults, deciding
from mcl_lab.config.targets import TRAIN
from mcl_lab.config.yaml_aliases import refuse_multiplied
from mcl_lab.errors import InputError

FILE_NAME = "config.yaml"


def to_yaml(config: DictConfig, clean: Callable[[str], str]) -> str:
    """The text of config.yaml: everything resolved, and every text in it passed through `clean`, which takes secrets out.

    Of `hydra` it keeps what was typed and the choice in each group.
    """
    tree = plain(config) | {"resume": None}
    choices = {
        group: choice for group, choice in config.hydra.runtime.choices.items() if not group.startswith("hydra/")
    }
    tree["hydra"] = {"overrides": {"task": overrides(config)}, "runtime": {"choices": choices}}
    return yaml.safe_dump(_each_text(tree, clean), sort_keys=False, allow_unicode=True)


def read_config(folder: str | Path, key: str) -> DictConfig:
    """The checked config of a run folder.

    Raises InputError(key) for a folder or file that is not there, and as `parse_config`.
    """
    path = Path(folder) / FILE_NAME
    if not os.path.isdir(folder):
        raise InputError(key, f"must be the folder of a run; {str(folder)!r} is no folder")
    if not os.path.isfile(path):
        raise InputError(key, f"{folder} has no {FILE_NAME}, so it is not the folder of a run")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(key, f"{path} cannot be read: {error}") from error
    return parse_config(text, path, key)


def parse_config(text: str, path: Path, key: str) -> DictConfig:
    """The checked config in a text that was read from `path`.

    Raises InputError(key) for one that cannot be read, that newer code wrote, and for anything that `check` refuses or
    that would be evaluated.
    """
    try:
        refuse_multiplied(text)
        config = OmegaConf.create(text)
    except AssertionError:  # OmegaConf's, of a number or the like
        raise InputError(key, f"{path} is not a config") from None
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, ValueError) as error:
        raise InputError(key, f"{path} cannot be read: {error}") from error
    if not isinstance(config, DictConfig):
        raise InputError(key, f"{path} is not a config")
    written: Any = OmegaConf.to_container(config, resolve=False)
    for name, value in leaves(written):
        if "${" in str(value) and name != "hydra.overrides.task":  # a record of what was typed, never evaluated
            raise InputError(key, f"{path}: {name} holds an interpolation, which no stored config does")
    try:
        check(with_names_now(config))
        _check_record(written.get("hydra"))
        if config.task._target_.startswith("mcl_lab.tasks.") and config.task._target_ != TRAIN:
            raise InputError("task._target_", "must be that of a run; other tasks leave no config")
    except InputError as error:
        raise InputError(key, f"{path}: {error}") from error
    config.setdefault("sweep", None)  # older configs have none
    return add_defaults(config)


def resumed(config: DictConfig) -> DictConfig:
    """The config of the run in the folder `config.resume`, with what this command line sets besides; see `with_settings`.

    Raises InputError("resume").
    """
    folder = config.resume
    result = with_settings(read_config(folder, "resume"), config, "resume", folder)
    result.resume = folder
    result.hydra.run.dir = folder
    return result


def with_settings(stored: DictConfig, config: DictConfig, key: str, place: str) -> DictConfig:
    """A stored config with what the command line of `config` sets besides.

    Only settings that do not decide numbers may be set; a group like `trainer=cpu` changes those of its settings.
    Raises InputError(key) that names the `place` of the stored config.
    """
    result = copy.deepcopy(stored)
    for override in parse(overrides(config)):
        name = override.package or override.key_or_group.replace("/", ".")
        if override.key_or_group == "experiment":
            raise InputError(key, f"goes by the config in {place}; leave experiment out")
        if name == "resume" or name.startswith("hydra"):
            continue
        _copy(config, result, name)
        if is_group(override.key_or_group) and name == "trainer":
            for kept in deciding(Trainer):
                result.trainer[kept] = stored.trainer[kept]
    changed = differences(identity_of(stored).deciding, identity_of(result).deciding)
    if changed:
        raise InputError(key, f"this would change the numbers of {place}: {'; '.join(changed)}")
    result.hydra = copy.deepcopy(config.hydra)
    result.hydra.overrides.task = stored.hydra.overrides.task
    result.hydra.runtime.choices = stored.hydra.runtime.choices
    return result


def _copy(source: DictConfig, target: DictConfig, name: str) -> None:
    """Set the node at a dotted name as it is in `source`; not there, it goes from `target` too."""
    parent, _, last = name.rpartition(".")
    tree = plain(source)
    for part in name.split("."):
        if not isinstance(tree, dict) or part not in tree:
            node = OmegaConf.select(target, parent) if parent else target
            if isinstance(node, DictConfig):
                node.pop(last, None)
            return
        tree = tree[part]
    OmegaConf.update(target, name, tree, merge=False)


def _each_text(tree: Any, change: Callable[[str], str]) -> Any:
    if isinstance(tree, dict):
        return {name: _each_text(value, change) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_each_text(value, change) for value in tree]
    return change(tree) if isinstance(tree, str) else tree


def _check_record(hydra: object) -> None:
    """The few things that to_yaml keeps of `hydra`."""
    words: list[object]
    match hydra:
        case {"overrides": {"task": list(typed)}, "runtime": {"choices": dict(choices)}}:
            words = [*typed, *choices, *[choice for choice in choices.values() if choice is not None]]
        case _:
            words = [None]
    if not all(isinstance(word, str) for word in words):
        raise InputError("hydra", "must hold what was typed (overrides.task) and the choices (runtime.choices)")
