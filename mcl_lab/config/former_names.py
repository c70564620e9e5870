"""What classes and functions that configs name were called before they moved.

Configs that say a former name, stored ones and people's own, mean the one of now; the run key has the first name of all.
"""

from omegaconf import DictConfig

NAMES: dict[str, str] = {}  # former name -> the one that it was given; a line stays for good


def name_now(target: object) -> object:
    """What a `_target_` is called now; anything else as it is."""
    while isinstance(target, str) and target in NAMES:
        target = NAMES[target]
    return target


def first_name(target: object) -> object:
    """What a `_target_` was called at first."""
    former = {now: name for name, now in NAMES.items()}
    while isinstance(target, str) and target in former:
        target = former[target]
    return target


def with_names_now(config: DictConfig) -> DictConfig:
    """The config, in which every `_target_` is made what it is called now."""
    if NAMES:
        _rename(config)
    return config


def _rename(node: DictConfig) -> None:
    for name, value in node.items_ex(resolve=False):
        if name == "_target_" and value != name_now(value):
            node[name] = name_now(value)
        elif isinstance(value, DictConfig) and not (
            value._is_none() or value._is_missing() or value._is_interpolation()
        ):
            _rename(value)
