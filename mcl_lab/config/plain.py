"""A config as plain Python values."""

from collections.abc import Iterator, Mapping

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mcl_lab.errors import InputError

EXAMPLES = {"task.checkpoint": "runs/FOLDER", "task.run": "runs/FOLDER"}


def plain(config: DictConfig) -> dict:
    """The config without `hydra`, every interpolation resolved. Raises InputError for a missing or broken value."""
    tree = unresolved(config)
    for key, value in leaves(tree):
        if value == "???":
            example = EXAMPLES.get(key, "PATH" if key.endswith("root") else "VALUE")
            raise InputError(key, f"needs a value, e.g. {key}={example}")
    # Resolving takes several times as long as the rest, so what has nothing to resolve is taken as it is written.
    return {name: resolve(config, name) if _has_interpolation(node) else node for name, node in tree.items()}


def unresolved(config: DictConfig) -> dict:
    """The config without `hydra` as it is written, interpolations and missing values (`???`) included."""
    return {
        name: OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
        for name, node in config.items_ex(resolve=False)
        if name != "hydra"
    }


def resolve(config: DictConfig, key: str) -> object:
    """The plain value at a dotted key, its interpolations resolved. Raises InputError when they cannot be."""
    try:
        node = OmegaConf.select(config, key)
        return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].replace("while resolving interpolation", "in the interpolation")
        raise InputError(error.full_key or key, f"its ${{...}} cannot be resolved: {reason}") from error


def leaves(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of everything that is not a mapping; lists, null and empty mappings are values."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _has_interpolation(tree: object) -> bool:
    if isinstance(tree, dict):
        return any(_has_interpolation(value) for value in tree.values())
    if isinstance(tree, list):
        return any(_has_interpolation(value) for value in tree)
    return isinstance(tree, str) and "${" in tree
