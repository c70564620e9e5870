"""What a run is known by: the key, a hash of what decides its numbers, and names made from it."""

import hashlib
import json
import re
from collections.abc import Mapping

from omegaconf import DictConfig

from mcl_lab.config.plain import leaves, plain

_GROUPS = ("pair", "loss", "optimizer", "schedule", "data")
TRAINER_KEYS = ("epochs", "max_steps", "precision", "channels_last")  # the trainer's settings that decide numbers


def key_config(config: DictConfig) -> dict:
    """What decides the numbers of a run, as plain values: 1.0 is 1, and a loss node that is null is not there."""
    return _key_config(plain(config))


def run_key(config: DictConfig) -> str:
    """SHA-256 of `key_config` in hexadecimal digits."""
    return _hash(key_config(config))


def recipe(config: DictConfig) -> dict:
    """What decides the numbers besides pair, loss and seed: runs of one recipe can be compared."""
    return {name: value for name, value in key_config(config).items() if name not in ("pair", "loss", "seed")}


def recipe_key(config: DictConfig) -> str:
    """The key of the recipe alone."""
    return _hash(recipe(config))


def repeat_key(config: DictConfig) -> str:
    """The key without the seed: runs that share it repeat one another."""
    return _hash({name: value for name, value in key_config(config).items() if name != "seed"})


def run_name(config: DictConfig) -> str:
    """`<pair>-<loss>-s<seed>-<first 8 digits of the key>`, fit to be a folder's name."""
    tree = plain(config)
    key = _hash(_key_config(tree))
    return f"{_pair_name(tree)}-{file_name(tree['loss']['name'])}-s{tree['seed']}-{key[:8]}"


def pair_name(config: DictConfig) -> str:
    """`single-resnet32` for one peer, `resnet32` for two of a kind, `resnet32x3` for three, else the names joined.

    The order is that of the peers' keys, not of the file; fit to be part of a folder's name.
    """
    return _pair_name(plain(config))


def pair_kind(config: DictConfig) -> str:
    """`single`, `homogeneous` (the same network with the same arguments throughout) or `heterogeneous`."""
    return _kind(_peers(plain(config)))


def file_name(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", str(name)).strip("-.")[:40] or "unnamed"


def differences(ours: Mapping, theirs: Mapping) -> list[str]:
    """The leaves in which two plain configs (`key_config`) differ, as lines `optimizer.lr: 0.1 -> 0.2`."""
    before, after = dict(leaves(ours)), dict(leaves(theirs))
    return [
        f"{key}: {_as_typed(before.get(key, '(none)'))} -> {_as_typed(after.get(key, '(none)'))}"
        for key in sorted(before.keys() | after.keys())
        if key not in before or key not in after or before[key] != after[key]
    ]


def changes(ours: Mapping, theirs: Mapping) -> dict[str, str]:
    """What makes a plain config (`key_config`) differ from ours, as one would type it: dotted key to value, `null` for a node
    that is gone."""
    before, after = dict(leaves(ours)), dict(leaves(theirs))
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    changed |= dict.fromkeys(filter(None, (_gone(key, after) for key in before.keys() - after.keys())))
    return {key: _as_typed(changed[key]) for key in sorted(changed)}


def _as_typed(value: object) -> str:
    return "null" if value is None else str(value)


def _gone(key: str, after: Mapping[str, object]) -> str | None:
    """The outermost node on the way to `key` of which `after` has nothing; None when it has a plain value there."""
    parts = key.split(".")
    for path in (".".join(parts[:depth]) for depth in range(1, len(parts) + 1)):
        if path in after:
            return None
        if not any(name.startswith(f"{path}.") for name in after):
            return path
    return None


def _key_config(tree: dict) -> dict:
    kept = {name: tree[name] for name in (*_GROUPS, "seed")}
    kept["trainer"] = {name: tree["trainer"][name] for name in TRAINER_KEYS}
    kept["data"] = _deciding(kept["data"])
    kept["loss"] = {name: node for name, node in kept["loss"].items() if node is not None}
    return _canonical(kept)


def _pair_name(tree: dict) -> str:
    peers = _peers(tree)
    names = [file_name(node["name"]) for node in peers]
    if len(names) == 1:
        return f"single-{names[0]}"
    if _kind(peers) == "homogeneous":
        return names[0] if len(names) == 2 else f"{names[0]}x{len(names)}"
    return "_".join(names)[:100]


def _kind(peers: list[dict]) -> str:
    if len(peers) == 1:
        return "single"
    return "homogeneous" if all(node == peers[0] for node in peers) else "heterogeneous"


def _peers(tree: dict) -> list[dict]:
    peers = tree["pair"]["peers"]
    return [_canonical(peers[key]) for key in sorted(peers)]


def _hash(tree: dict) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _deciding(tree: object) -> object:
    """Without the places of data; and without `unreadable: refuse`, which lets a run have all images or none."""
    if isinstance(tree, dict):
        kept = {key: value for key, value in tree.items() if key != "root" and (key, value) != ("unreadable", "refuse")}
        return {key: _deciding(value) for key, value in kept.items()}
    return tree


def _canonical(tree: object) -> object:
    if isinstance(tree, dict):
        return {str(key): _canonical(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_canonical(value) for value in tree]
    if isinstance(tree, float) and tree.is_integer():
        return int(tree)
    return tree
