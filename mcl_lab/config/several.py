"""The configs of many runs, each as `compose` makes it, with Hydra's work done once for all that are alike.

Hydra goes through the groups first and sets the values that were typed last. So runs that differ in such values alone are
composed once without them, and each gets a copy in which they are set.
"""

import functools
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mcl_lab.config.compose import compose, is_group, overrides, parse
from mcl_lab.errors import InputError

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


def compose_several(runs: Iterable[Sequence[str]]) -> Iterator[DictConfig]:
    """The config of each run in turn, composed but not checked, from the overrides of each.

    Raises what `compose` raises for a run, when it is that run's turn.
    """
    shared: dict[tuple[str, ...], bytes | None] = {}
    files: dict[tuple, bytes] = {}
    for words in runs:
        typed = [_parsed(word) for word in words]
        values = _values(typed)
        rest = tuple(override.input_line for override in typed if not any(override is value for value in values))
        if rest not in shared:
            shared[rest] = _without_values(rest, files)
        config = shared[rest] and _with_values(shared[rest], typed, values)
        yield config or compose(words)


def _values(typed: Sequence[Override]) -> list[Override]:
    """The overrides that only give a value to a key that is there, and that Hydra would set last."""
    values = []
    for override in reversed(typed):
        key = override.key_or_group
        if re.match(r"hydra\b", key) or is_group(key):
            continue  # set apart from the others, or before them
        if override.type != OverrideType.CHANGE or override.package is not None or not _KEY.fullmatch(key):
            break  # adds or removes something: what was typed before it must be set before it
        values.append(override)
    return values[::-1]


def _without_values(words: Sequence[str], files: dict[tuple, bytes]) -> bytes | None:
    """The config of these overrides, to make copies of; None when there is none, or the overrides are not all it knows."""
    try:
        config = compose(words, files)
    except InputError:
        return None  # for `compose` to say, with what it says about all that was typed
    typed = [word for word in words if not _parsed(word).is_hydra_override()]
    return pickle.dumps(config) if overrides(config) == typed else None  # of which a copy is made in a third of the time


def _with_values(shared: bytes, typed: Sequence[Override], values: Sequence[Override]) -> DictConfig | None:
    """A copy with these values, and the record of what was typed; None when Hydra has to look at them itself."""
    config = pickle.loads(shared)
    sources = [Path(source.path) for source in config.hydra.runtime.config_sources if source.schema == "file"]
    if any(value.is_sweep_override() or any((source / value.key_or_group).is_dir() for source in sources) for value in values):
        return None
    own = [override for override in typed if not override.is_hydra_override()]
    try:
        for value in values:
            OmegaConf.update(config, value.key_or_group, value.value(), merge=True)
        config.hydra.overrides.task = [override.input_line for override in own]
        form = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(own, form.exclude_keys, form.item_sep, form.kv_sep)
    except (OmegaConfBaseException, ValueError):
        return None
    return config


@functools.lru_cache(maxsize=100_000)
def _parsed(word: str) -> Override:
    return parse([word])[0]

