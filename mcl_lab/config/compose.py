"""From a command line to a config, through Hydra; its errors become InputErrors that name the setting."""

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mcl_lab.config.check import SEE_ALL, SWEEPER_UNUSED, arguments, unknown_key
from mcl_lab.config.files import KeptFiles
from mcl_lab.config.former_names import with_names_now
from mcl_lab.config.home import expand_home
from mcl_lab.config.identity import identity_of
from mcl_lab.config.nearest import nearest
from mcl_lab.config.plain import leaves, resolve, unresolved
from mcl_lab.config.schema import add_defaults
from mcl_lab.errors import InputError

CONF = Path(__file__).resolve().parents[2] / "conf"


def compose(overrides: Sequence[str], kept: dict[tuple, bytes] | None = None) -> DictConfig:
    """The config of one run, `hydra` included, composed but not checked.

    kept: keeps config files from one call to the next, empty at first; None: they are read anew.
    Raises InputError for what cannot be composed: unknown groups, options and keys, and what Hydra cannot parse.
    """
    parsed = parse(overrides)
    for override in parsed:
        _refuse_early(override)
    try:
        return expand_home(with_names_now(add_defaults(_compose(overrides, kept))))
    except MissingConfigException as error:
        raise _missing_option(error, parsed) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise _translated(error, parsed) from error


def parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides in Hydra's own terms. Raises InputError for one that cannot be read."""
    parser, parsed = OverridesParser.create(), []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except OverrideParseException as error:
            if "=" not in text:
                hint = "has no value; write KEY=VALUE, without spaces beside the ="
                raise InputError(_key_of(text), f"cannot read {text!r}: it {hint}") from error
            hint = "quote special characters: 'KEY=\"VALUE\"'"
            raise InputError(
                _key_of(text), f"cannot read {text!r} ({error.message.splitlines()[0]}); {hint}"
            ) from error
        except (ValueError, RecursionError) as error:  # more digits, or deeper nesting, than Python takes
            raise InputError(_key_of(text), f"cannot be read: {error}") from error
    return parsed


def typed(override: Override) -> str:
    """The words that an override was read from."""
    return override.input_line or ""


def is_group(name: str) -> bool:
    """Whether `name` is a config group, `optimizer`, and not a key."""
    return name.startswith("hydra/") or bool(name) and (CONF / name).is_dir()


def options(group: str, folders: Sequence[Path] = (CONF,)) -> set[str]:
    """The names of a group's options, as found in folders of groups."""
    return {
        path.relative_to(folder / group).with_suffix("").as_posix()
        for folder in folders
        for path in (folder / group).rglob("*.yaml")
    }


def overrides(config: DictConfig) -> list[str]:
    """What was typed for this config, Hydra's own settings aside, interpolations as they were typed."""
    words: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    return words


def run_folder(config: DictConfig) -> Path:
    """Where the run lives; it need not exist."""
    return Path(str(resolve(config, "hydra.run.dir")))


def defaults_for(config: DictConfig) -> DictConfig:
    """The config with the same choice in each group, without experiment and without a value of its own.

    What has no default, like the root of a folder of images, is as in `config`. Raises InputError when an option of a stored
    config is not there.
    """
    try:
        return _defaults_for(config)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        reason = " ".join(str(error).splitlines()[:1])
        raise InputError("config", f"{reason} Where its options are in a folder of yours, give --config-dir") from error


def register_resolvers() -> None:
    """Make `${run_name:}` known to OmegaConf: the default folder of the config it stands in."""
    OmegaConf.register_new_resolver("run_name", lambda *, _root_: identity_of(_root_).name, replace=True)


def _defaults_for(config: DictConfig) -> DictConfig:
    choices = {
        group: choice
        for group, choice in config.hydra.runtime.choices.items()
        if choice is not None and not group.startswith(("hydra/", "experiment"))
    }
    search_path = ",".join(f"'{path}'" for path in config.hydra.searchpath)
    groups = [f"{group}={choice}" for group, choice in choices.items() if "@" not in group]
    groups.append(f"hydra.searchpath=[{search_path}]")
    base = _compose(groups)
    peers = {group: choice for group, choice in base.hydra.runtime.choices.items() if "@" in group}
    changed = [
        f"{'' if group in peers else '+'}{group}={choice}"
        for group, choice in choices.items()
        if "@" in group and peers.get(group) != choice
    ]
    removed = [f"~{group}" for group in peers if group not in choices]
    defaults = _compose([*groups, *changed, *removed]) if changed or removed else base
    for key, value in leaves(unresolved(defaults)):
        if value == "???":
            OmegaConf.update(defaults, key, OmegaConf.select(config, key))
    return defaults


def _compose(overrides: Sequence[str], kept: dict[tuple, bytes] | None = None) -> DictConfig:
    register_resolvers()
    outer = GlobalHydra.instance().hydra  # there is one inside a multirun, and Hydra refuses a second
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), job_name="run", version_base="1.3"):
            loader: Any = GlobalHydra.instance().config_loader()
            loader.repository = KeptFiles(loader.get_sources(), {} if kept is None else kept)
            return hydra_compose("config", overrides=list(overrides), return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = outer


def _refuse_early(override: Override) -> None:
    """What Hydra would refuse without naming the setting, or would not refuse."""
    key = override.get_key_element().lstrip("+~")
    if not override.key_or_group:
        raise InputError(typed(override), "has no key; write KEY=VALUE")
    if key.startswith("hydra.sweeper.params"):
        raise InputError("hydra.sweeper", SWEEPER_UNUSED)
    if key == "hydra.searchpath":
        _refuse_nowhere(override.value())
    if override.is_sweep_override():
        raise InputError(key, "several values make several runs: add -m (--multirun)")
    if is_group(override.key_or_group) and not override.is_delete():
        value = override.value()
        names = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) and name for name in names):
            listed = _listed(options(override.key_or_group))
            raise InputError(key, f"is a group and needs the name of an option: {listed}")


def _refuse_nowhere(paths: object) -> None:
    """Of a search path that is not there Hydra only warns; of a package it runs code to find it."""
    for path in paths if isinstance(paths, list) else [paths]:
        if not str(path).startswith("file://") or not os.path.isdir(str(path).removeprefix("file://")):
            raise InputError("hydra.searchpath", f"{path} is not a folder; name it by --config-dir=FOLDER")


def _missing_option(error: MissingConfigException, parsed: Collection[Override]) -> InputError:
    missing = (error.missing_cfg_file or "").removesuffix(".yaml")
    for override in parsed:
        value = override.value()
        for name in value if isinstance(value, list) else [value]:
            if missing == f"{override.key_or_group}/{name}":
                known = options(override.key_or_group) | set(error.options or ())
                key = override.get_key_element().lstrip("+")
                meant = nearest(str(name), known)
                short = not meant or len(known) <= 10
                others = f"; {_listed(known)}" if short else " All of them: python run.py task=list"
                return InputError(key, f"there is no option {name}{meant}{others}")
    return InputError(missing or "config", " ".join(str(error).split("Config search path")[0].split()))


def _translated(error: Exception, parsed: Collection[Override]) -> InputError:
    if isinstance(error, RecursionError):
        return InputError("config", "nests too deep: does a defaults list name its own file?")
    if isinstance(error, OSError):
        return InputError("config", f"{error.filename} cannot be read: {error.strerror}")
    message = " ".join(str(error).split()) or type(error).__name__
    if merging := re.match("Error merging override (.*)", message):
        reason = str(error.__cause__ or "").partition("\n")[0]
        return InputError(_key_of(merging[1]), f"cannot be set to this: {reason}")
    quoted = re.search(r"'([^']+)'", message)
    key = getattr(error, "full_key", None) or (quoted.group(1) if quoted else "config")
    if within := re.match(r"In '(.+)': Could not override '([^'@]+)[^']*'\. Did you mean to override \2\?", message):
        where = (
            f"override of /{within[2]} has no effect there; put it in a file of experiment/, under # @package _global_"
        )
        return InputError(within[1], f"its {where}")
    if message.startswith("Could not override") and "default list" not in message:
        known = _known_keys(parsed)
        if key in known:
            return InputError(key, f"is not in this config yet; to add it write +{key}=VALUE")
        return unknown_key(key, known)
    if message.startswith("Could not override"):
        known = [group for group in _compose([]).hydra.runtime.choices if not group.startswith("hydra/")]
        same_group = [f"; did you mean {name}?" for name in known if name.startswith(f"{key}@")]
        hint = same_group[0] if same_group else f"{nearest(key, known)}; to add it write +{key}=OPTION"
        return InputError(key, f"is not in the config{hint}")
    if twice := re.search(r"Multiple values for ([^ ]+)\.", message):
        if any(override.is_add() and override.get_key_element().lstrip("+") == twice[1] for override in parsed):
            return InputError(twice[1], f"is in the config already; write {twice[1]}=OPTION without the +")
        return InputError(
            twice[1], f"is chosen twice; in the defaults of a file of yours write `override /{twice[1]}: OPTION`"
        )
    if message.startswith("Could not append") and "already" in message:
        return InputError(key, f"is already in the config; write {key}=VALUE without the +")
    if message.startswith("Could not delete"):
        known = _known_keys(parsed)
        return InputError(key, f"cannot be removed: {message}{'' if key in known else nearest(key, known)}")
    return InputError(key, message)


def _known_keys(parsed: Collection[Override]) -> list[str]:
    """Groups, and keys of the config with this command line's options: those that are there and those that may be."""
    groups = [typed(override) for override in parsed if is_group(override.key_or_group)]
    try:
        config = _compose(groups)
    except (HydraException, OmegaConfBaseException):
        config = _compose([])
    tree = unresolved(config)
    hydra = [f"hydra.{key}" for key in config.hydra] + [f"hydra.launcher.{key}" for key in config.hydra.launcher]
    groups = [*config.hydra.runtime.choices, *[group.name for group in CONF.iterdir() if group.is_dir()]]
    return [*[key for key, _ in leaves(tree)], *arguments(tree), *hydra, *groups]


def _listed(names: Collection[str]) -> str:
    return "choose one of " + ", ".join(sorted(names)) if names else SEE_ALL


def _key_of(text: str) -> str:
    return text.partition("=")[0].lstrip("+~") or text
