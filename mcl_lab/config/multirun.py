"""The configs of many runs, each as `compose` makes it, with Hydra's work done once for all that are alike.

Hydra goes through the groups first and sets last the values that were typed. So runs that differ in such values alone
are composed once without them, and each gets a copy in which they are set.
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

from mcl_lab.config.compose import compose, is_group, overrides, parse, typed
from mcl_lab.config.former_names import with_names_now
from mcl_lab.config.home import expand_home
from mcl_lab.errors import InputError

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


def compose_several(runs: Iterable[Sequence[str]]) -> Iterator[DictConfig]:
    """The config of each run in turn, composed but not checked, from the overrides of each.

    Raises what `compose` raises for a run, when it is that run's turn.
    """
    shared: dict[tuple[str, ...], bytes | None] = {}
    files: dict[tuple, bytes] = {}
    for words in runs:
        parsed = [_parsed(word) for word in words]
        rest, values = _split(parsed)
        if rest not in shared:
            shared[rest] = _without_values(rest, files)
        without = shared[rest]
        config = None if without is None else _with_values(without, parsed, values)
        yield config or compose(words)


def _split(parsed: Sequence[Override]) -> tuple[tuple[str, ...], list[Override]]:
    """What was typed apart from values, and the overrides that only give a value to a key and may be set last."""
    rest, values, must_precede = [], [], False
    for override in reversed(parsed):
        key = override.key_or_group
        if re.match(r"hydra\b", key) or is_group(key):
            rest.append(typed(override))  # set apart from the values, or before them
        elif must_precede or override.type != OverrideType.CHANGE or override.package or not _KEY.fullmatch(key):
            rest.append(typed(override))
            must_precede = True  # it adds or removes something: what was typed before it must be set before it
        else:
            values.append(override)
    return tuple(rest[::-1]), values[::-1]


def _without_values(words: Sequence[str], files: dict[tuple, bytes]) -> bytes | None:
    """The config of these overrides, to make copies of; None when there is none, or it says that others were typed."""
    try:
        config = compose(words, files)
    except InputError:
        return None  # for `compose` to say, with what it says about all that was typed
    ours = [word for word in words if not _parsed(word).is_hydra_override()]
    # A pickled config is copied in a third of the time that copy.deepcopy takes.
    return pickle.dumps(config) if overrides(config) == ours else None


def _with_values(shared: bytes, parsed: Sequence[Override], values: Sequence[Override]) -> DictConfig | None:
    """A copy with these values, and the record of what was typed; None when Hydra has to look at them itself."""
    config = pickle.loads(shared)
    folders = [Path(source.path) for source in config.hydra.runtime.config_sources if source.schema == "file"]
    groups = [value for value in values if any((folder / value.key_or_group).is_dir() for folder in folders)]
    if groups or any(value.is_sweep_override() for value in values):
        return None
    own = [override for override in parsed if not override.is_hydra_override()]
    try:
        for value in values:
            OmegaConf.update(config, value.key_or_group, value.value(), merge=True)
        config.hydra.overrides.task = [typed(override) for override in own]
        form = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(own, form.exclude_keys, form.item_sep, form.kv_sep)
    except (OmegaConfBaseException, ValueError):
        return None
    return expand_home(with_names_now(config))


@functools.lru_cache(maxsize=100_000)
def _parsed(word: str) -> Override:
    return parse([word])[0]
