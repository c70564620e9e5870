"""`~` in settings that are paths: no shell replaces it after KEY=, so it is done here, for all of them alike."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from mcl_lab.host.files import expanded

# Besides tracking.uri, where it is part of a URI (host/uri.py).
PATHS = (
    *("hydra.run.dir", "resume", "sweep", "data.root"),
    *("task.checkpoint", "task.folder", "task.moved_from", "task.plots", "task.run", "task.runs"),
)


def expand_home(config: DictConfig) -> DictConfig:
    """The config with `~` and `~USER` at the beginning of its paths replaced. Raises InputError for a user that is not there."""
    for key in PATHS:
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(config, parent, throw_on_resolution_failure=False) if parent else config
        if isinstance(node, DictConfig):
            value = dict(node.items_ex(resolve=False)).get(name)
            value = OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value
            whole = [_expanded(key, item) for item in value] if isinstance(value, list) else _expanded(key, value)
            if whole != value:
                node[name] = whole
    return config


def _expanded(key: str, path: Any) -> Any:
    return str(expanded(path, key)) if isinstance(path, str) and path.startswith("~") else path
