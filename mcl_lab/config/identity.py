"""What a run is known by: the key, a hash of what decides its numbers, and names made from it."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omegaconf import DictConfig

from mcl_lab.config import schema
from mcl_lab.config.former_names import first_name, name_now
from mcl_lab.config.plain import plain
from mcl_lab.config.signatures import later_arguments
from mcl_lab.host.digests import digest_of


def identity_of(config: DictConfig) -> "Identity":
    """Raises InputError for a config with a missing or broken value."""
    return Identity(_deciding(plain(config)))


@dataclass(frozen=True)
class Identity:
    """What a run is known by.

    deciding: what decides its numbers, as plain values: 1.0 is 1; a loss node that is null is not there, nor is a later
    setting at the value that means what was before; a class has the first name that it ever had.
    """

    deciding: dict[str, Any]

    @cached_property
    def run_key(self) -> str:
        """SHA-256 of what decides the numbers, in hexadecimal digits."""
        return digest_of(self.deciding)

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the numbers besides pair, loss and seed: runs of one recipe can be compared."""
        return self._without("pair", "loss", "seed")

    @cached_property
    def recipe_key(self) -> str:
        return digest_of(self.recipe)

    @cached_property
    def repeat_key(self) -> str:
        """The key without the seed: runs that share it repeat one another."""
        return digest_of(self._without("seed"))

    @property
    def peers(self) -> dict[str, Any]:
        """The node of each peer, in the order of their keys."""
        return dict(sorted(self.deciding["pair"]["peers"].items()))

    @property
    def kind(self) -> str:
        """`single`, `homogeneous` (the same network with the same arguments throughout) or `heterogeneous`."""
        first, *others = self.peers.values()
        if not others:
            return "single"
        return "homogeneous" if all(node == first for node in others) else "heterogeneous"

    @property
    def pair(self) -> str:
        """`single-resnet32` for one peer, `resnet32` for two of a kind, `resnet32x3` for three, else the names joined.

        The order is that of the peers' keys, not of the file; fit to be part of a folder's name.
        """
        names = [file_name(node["name"]) for node in self.peers.values()]
        match self.kind:
            case "single":
                return f"single-{names[0]}"
            case "homogeneous":
                return names[0] if len(names) == 2 else f"{names[0]}x{len(names)}"
        return "_".join(names)[:100]

    @property
    def name(self) -> str:
        """`<pair>-<loss>-s<seed>-<first 8 digits of the key>`, fit to be a folder's name."""
        loss, seed = self.deciding["loss"]["name"], self.deciding["seed"]
        return f"{self.pair}-{file_name(loss)}-s{seed}-{self.run_key[:8]}"

    def _without(self, *names: str) -> dict[str, Any]:
        return {name: value for name, value in self.deciding.items() if name not in names}


def file_name(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", str(name)).strip("-.")[:40] or "unnamed"


def _deciding(tree: dict[str, Any]) -> dict[str, Any]:
    kept = {name: tree[name] for name in schema.deciding(schema.Config)}
    for name in kept.keys() & schema.SECTIONS.keys():
        kept[name] = _of_section(kept[name], schema.SECTIONS[name])
    kept["data"] = _without_refusal(kept["data"])
    kept["loss"] = {name: node for name, node in kept["loss"].items() if node is not None}
    peers = kept["pair"]["peers"]
    kept["pair"] = {"peers": {key: _of_section(node, schema.Network) for key, node in peers.items()}}
    return _canonical(kept)


def _of_section(tree: dict[str, Any], section: type) -> dict[str, Any]:
    return _without_later(_without(tree, schema.beside(section)), schema.later(section))


def _without(tree: Any, names: Collection[str]) -> Any:
    """At any depth: an augmentation may have a `root` too."""
    if not isinstance(tree, dict):
        return tree
    return {name: _without(value, names) for name, value in tree.items() if name not in names}


def _without_refusal(tree: Any) -> Any:
    """Without `unreadable: refuse` at any depth, whatever the class: keys of plugins' data sets never had it."""
    if not isinstance(tree, dict):
        return tree
    kept = {name: value for name, value in tree.items() if (name, value) != ("unreadable", "refuse")}
    return {name: _without_refusal(value) for name, value in kept.items()}


def _without_later(tree: dict[str, Any], before: Mapping[str, object]) -> dict[str, Any]:
    """Without what is as it was before there was a setting for it."""
    return {name: value for name, value in tree.items() if name not in before or not _alike(value, before[name])}


def _alike(one: object, other: object) -> bool:
    return repr(_canonical(one)) == repr(_canonical(other))  # true is not 1


def _canonical(tree: Any) -> Any:
    if isinstance(tree, dict):
        if "_target_" in tree:
            target = name_now(tree["_target_"])
            tree = _without_later(tree, later_arguments(target)) | {"_target_": first_name(target)}
        return {str(key): _canonical(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_canonical(value) for value in tree]
    if isinstance(tree, float) and tree.is_integer():
        return int(tree)
    return tree
