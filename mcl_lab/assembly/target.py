"""The object that a `_target_` node names."""

import inspect
from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf

from mcl_lab.errors import InputError


def create(key: str, node: DictConfig, **offered: Any) -> Any:
    """The object that a `_target_` node names, from its arguments and those of the offered ones that it takes.

    Raises InputError(key) for what the constructor refuses.
    """
    try:
        target = hydra.utils.get_object(node._target_)
    except ImportError as error:
        raise InputError(f"{key}._target_", f"cannot be imported: {error}") from error
    asked = inspect.signature(target).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in asked.values())
    arguments = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))  # of a node, no list
    del arguments["_target_"]
    taken = {name: value for name, value in offered.items() if takes_all or name in asked}
    try:
        return target(**arguments, **taken)
    except (ValueError, RuntimeError) as error:  # what constructors raise, PyTorch's among them
        raise InputError(key, str(error)) from error
    except TypeError as error:
        # else an argument that **kwargs handed on to what has no such
        if not takes_all or "argument" not in str(error):
            raise
        raise InputError(key, str(error)) from error
