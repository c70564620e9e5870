"""The first stage of checking: everything that can be known about a config in a moment, without importing torch.

What a constructor refuses, and what depends on devices and files, is the second stage, inside the tasks.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mcl_lab.config import schema
from mcl_lab.config.former_names import name_now
from mcl_lab.config.nearest import nearest
from mcl_lab.config.plain import leaves, plain, resolve, unresolved
from mcl_lab.config.signatures import Signature, signature_of
from mcl_lab.config.targets import check_target, place_of
from mcl_lab.config.values import check_value
from mcl_lab.errors import InputError
from mcl_lab.host.modules import PLUGINS_VARIABLE, plugins

SEE_ALL = "see all settings with: python run.py --cfg job"
RENAMED = {"task.figure": "task.metric", "task.figures": "task.plots"}  # settings, by the names they had
SWEEPER_UNUSED = "is not used: list the values on the command line, or in a sweep file"
_PEER = "pair.peers.*"
# What the databases that MLflow writes to hold of an experiment's name. A metric has the names of two peers in its own.
_LONGEST_NAME = 250
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # a lone surrogate stands for a byte that is no UTF-8
_ENVIRONMENT_ALLOWED = re.compile(r"tracking\..*|data\.root")
_SWEEP_DEFAULT = {"dir": "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}", "subdir": "${hydra.job.num}"}  # Hydra's
_UNUSED = {
    "job.chdir": "a run stays in the folder where it was started and writes to hydra.run.dir",
    "job.env_copy": "a run has the variables of the shell that started it",
    "output_subdir": "a run folder holds its config.yaml",
    "verbose": "a run writes its log to run.log",
}  # settings of Hydra's own jobs
_NODE_KEYS = {"_args_", "_partial_", "_recursive_", "_convert_"}  # Hydra's, which would get around the signatures


def check(config: DictConfig) -> None:
    """Raise InputError for the first thing that is wrong with a composed or stored config."""
    written = unresolved(config)
    _check_keys(written)  # before a key that is gone is reported as an interpolation to it
    _check_environment(written)
    check_hydra(config)
    tree = plain(config)
    _check_keys(tree)
    _check_scalars(tree)
    for key, node in _nodes(tree):
        check_target(key, node["_target_"])
    _check_structure(tree)
    _check_conflicts(tree)
    if OmegaConf.select(config, "hydra.run") is not None:
        folder = resolve(config, "hydra.run.dir")
        if not folder:
            raise InputError("hydra.run.dir", "needs the name of a folder")
        _check_scalars({"hydra.run.dir": folder})


def check_network(key: str, node: object) -> dict[str, Any]:
    """As `check`, for the node of a network that stands by itself, and that somebody else may have written: nothing in it
    may be evaluated, and nothing called that makes no network. `key`: where it stands. Returns the node, its class by the name
    of now. Raises InputError."""
    if not isinstance(node, dict):
        raise InputError(key, "must be a mapping")
    for name, value in leaves(node):
        if "${" in f"{name} {value}":
            raise InputError(f"{key}.{name}", "holds an interpolation, which is not allowed here")
    _check_scalars({key: node})
    if "_target_" in node:
        node = {**node, "_target_": name_now(node["_target_"])}
    for place, inner in _nodes(node, key):
        check_target(place, inner["_target_"], _PEER if place == key else None)
    target = str(node.get("_target_", ""))
    if not target.startswith("mcl_lab.") and target.split(".")[0] not in plugins():
        raise InputError(f"{key}._target_", f"{target or 'nothing'} is no network of mcl_lab or of {PLUGINS_VARIABLE}")
    _check_network(key, node)
    return node


def check_hydra(config: DictConfig) -> None:
    """Raise InputError for what Hydra must not do, or would do in our place."""
    if "hydra" not in config:
        return
    if not OmegaConf.is_dict(config.hydra):
        raise InputError("hydra", "must be a mapping")
    hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
    for key, node in _nodes(hydra, "hydra"):
        check_target(key, node["_target_"])
    _check_unused(hydra)
    launcher = hydra.get("launcher")
    if launcher is not None and not isinstance(launcher, dict):
        raise InputError("hydra.launcher", "must be a mapping; choose one by hydra/launcher=local")
    if launcher and str(launcher.get("_target_")).startswith("mcl_lab."):
        _check_node("hydra.launcher", launcher)
    for key, _ in leaves(hydra, "hydra."):
        if "()" in key.split("."):
            raise InputError(key, "a logging factory is not allowed")


def _check_keys(tree: dict) -> None:
    _check_names("", tree, schema.Config)
    for section, fields in schema.SECTIONS.items():
        if isinstance(tree[section], dict):
            _check_names(section, tree[section], fields, open_ended=section == "loss")


def _check_structure(tree: dict) -> None:
    _check_fields("", tree, schema.Config)
    for section, fields in schema.SECTIONS.items():
        _check_fields(section, tree[section], fields)
    if tree["config_version"] > schema.CONFIG_VERSION:
        raise InputError(
            "config_version",
            f"{tree['config_version']} is newer than this code, which reads up to "
            f"{schema.CONFIG_VERSION}; update mcl_lab",
        )
    _check_data(tree["data"])
    _check_peers(tree["pair"])
    _check_loss(tree["loss"], len(tree["pair"]["peers"]))
    for key in ("optimizer", "schedule", "task"):
        _check_node(key, tree[key])


def _check_data(data: dict) -> None:
    images = _check_node("data.images", data["images"])
    if "root" in images.required and "root" not in data:
        raise InputError("data.root", f"needs a value, as {data['images']['_target_']} does; add +data.root=PATH")
    if data["augmentation"] is not None:
        _check_node("data.augmentation", data["augmentation"])


def _check_peers(pair: dict) -> None:
    if not pair["peers"]:
        raise InputError("pair.peers", "needs one peer or more, e.g. +network@pair.peers.a=resnet32")
    for name, node in pair["peers"].items():
        key = f"pair.peers.{name}"
        if not re.fullmatch(r"[A-Za-z]\w{0,99}", str(name)):
            raise InputError(
                key, "a peer's name must be a letter followed by letters, digits and _, 100 characters at most"
            )
        _check_network(key, node)


def _check_network(key: str, node: dict) -> None:
    _check_names(key, node, schema.Network, open_ended=True)
    head = _check_fields(key, node, schema.Network)
    _check_node(key, node, head, _PEER)


def _check_loss(loss: dict, peers: int) -> None:
    head = schema.declared(schema.Loss)
    nodes = {name: node for name, node in loss.items() if name not in head and node is not None}
    if not nodes:
        raise InputError("loss", "needs at least one term, e.g. loss.classification")
    for name, node in nodes.items():
        attributes: Mapping[str, Any] = _check_node(f"loss.{name}", node).attributes
        least = attributes.get("min_peers", 1)
        if peers < least:
            needs = f"needs {least} peers or more for its term {name}, this pair has {peers}"
            raise InputError("pair", f"loss={loss['name']} {needs}")
        for other in attributes.get("requires", ()):
            if other not in nodes:
                raise InputError(f"loss.{other}", f"is needed by loss.{name}; keep it or set loss.{name}=null too")


def _check_conflicts(tree: dict) -> None:
    trainer, optimizer, schedule = tree["trainer"], tree["optimizer"], tree["schedule"]
    for key, name in (("data.name", tree["data"]["name"]), ("tracking.experiment", tree["tracking"]["experiment"])):
        if len(name) > _LONGEST_NAME:
            raise InputError(key, f"must be at most {_LONGEST_NAME} characters long, for MLflow, not {len(name)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", trainer["device"]):
        raise InputError("trainer.device", f"must be auto, cpu, cuda or cuda:N, not {trainer['device']!r}")
    if trainer["precision"] == "tf32" and trainer["device"] == "cpu":
        raise InputError("trainer.precision", "tf32 needs trainer.device=cuda; on the CPU choose float32 or bf16")
    if trainer["graphs"] and trainer["device"] == "cpu":
        raise InputError("trainer.graphs", "true needs trainer.device=cuda; they are CUDA graphs")
    if optimizer.get("nesterov") and not optimizer.get("momentum"):
        raise InputError("optimizer.nesterov", "true needs optimizer.momentum > 0")
    if (
        not re.fullmatch(r"[\w-][\w.-]*|.*/[^/]+/?", tree.get("sweep") or "-")
        or Path(tree.get("sweep") or "-").name == ".."
    ):
        raise InputError("sweep", f"must be a name of letters, digits, '.', '_' and '-', not {tree['sweep']!r}")
    warmup = schedule.get("warmup_epochs")
    if warmup and warmup > trainer["epochs"]:
        epochs = trainer["epochs"]
        raise InputError("schedule.warmup_epochs", f"must be at most trainer.epochs={epochs}, not {warmup}")


def _check_fields(key: str, node: dict, fields: type) -> set[str]:
    """Types and ranges of the values that a dataclass declares; returns their names."""
    declared = schema.declared(fields)
    for name, annotation in declared.items():
        if name in node:
            check_value(_join(key, name), node[name], annotation)
    return set(declared)


def _check_names(key: str, node: dict, fields: type, open_ended: bool = False) -> None:
    """No key but those that a dataclass declares, unless open-ended, and all of those without a default."""
    declared = dataclasses.fields(fields)
    known = [_join(key, field.name) for field in declared]
    for name in node:
        if _join(key, name) not in known and not open_ended:
            raise unknown_key(_join(key, name), known)
    for field in declared:
        if field.name not in node and field.default is dataclasses.MISSING:
            raise InputError(_join(key, field.name), f"is missing from the config; {SEE_ALL}")


def unknown_key(key: str, known: Collection[str]) -> InputError:
    """The error for a key that is not there, with the nearest one that is."""
    if re.fullmatch(r"pair\.peers\.\w+", key):
        return InputError(key, f"there is no such peer; to add one write +network@{key}=OPTION")
    if RENAMED.get(key) in known:
        return InputError(key, f"is called {RENAMED[key]} now")
    apart = [name for name in known if not key.startswith(f"{name}.")]
    return InputError(key, "there is no such setting" + (nearest(key, apart) or f"; {SEE_ALL}"))


def arguments(tree: dict) -> Iterator[str]:
    """The dotted keys of all arguments that the nodes of a plain config could be given."""
    for key, node in _nodes(tree):
        try:
            check_target(key, node["_target_"])
            yield from (f"{key}.{name}" for name in signature_of(key, node["_target_"]).parameters)
        except InputError:
            continue  # what is wrong with the node is not asked here


def _check_node(key: str, node: dict, head: Collection[str] = (), place: str | None = None) -> Signature:
    """A node with a `_target_` by the signature of its class or function, which is returned.

    head: keys of the node that are no arguments. place: see `check_target`.
    """
    supplied = schema.SUPPLIED.get(place or place_of(key), set())
    if not isinstance(node, dict) or "_target_" not in node:
        raise InputError(f"{key}._target_", "is missing: a node needs the dotted name of a class or function")
    signature = signature_of(key, node["_target_"])
    for name, value in node.items():
        if name == "_target_" or name in head:
            continue
        if name in supplied or name in _NODE_KEYS:
            raise InputError(f"{key}.{name}", "is set by the program, not by a config; remove it")
        if name not in signature.parameters and not signature.accepts_any:
            raise unknown_key(f"{key}.{name}", [f"{key}.{known}" for known in signature.parameters.keys() - supplied])
        if isinstance(value, dict) and "_target_" in value:
            raise InputError(
                f"{key}.{name}._target_", f"is within {key}, which takes plain values and builds what it needs"
            )
        check_value(f"{key}.{name}", value, signature.parameters.get(name), within=schema.RANGES.get(f"{key}.{name}"))
    for name in sorted(signature.required - node.keys() - set(supplied)):
        raise InputError(f"{key}.{name}", f"needs a value: {node['_target_']} has no default for it")
    return signature


def _check_environment(written: dict) -> None:
    # Values from the environment may be secrets, and a run's config is stored and shown.
    for key, value in leaves(written):
        if "oc.env" in str(value) and not _ENVIRONMENT_ALLOWED.fullmatch(key):
            raise InputError(key, "oc.env is allowed only in data.root, tracking.* and hydra.*; write the value itself")


def _check_unused(hydra: dict) -> None:
    """Refuse settings of Hydra's own jobs and sweeps, in whose place are ours."""
    if "MULTIRUN" in str(hydra.get("mode")):
        raise InputError("hydra.mode", "for several runs write -m (--multirun) on the command line")
    for key, value in leaves(hydra):
        if key in _UNUSED and value:
            raise InputError(f"hydra.{key}", f"is not used: {_UNUSED[key]}")
    sweeper = hydra.get("sweeper") or {}
    if not isinstance(sweeper, dict) or sweeper.get("params"):
        raise InputError("hydra.sweeper", SWEEPER_UNUSED)
    if hydra.get("sweep") not in (None, _SWEEP_DEFAULT):
        raise InputError(
            "hydra.sweep", "is not used: each run has a folder of its own, hydra.run.dir=FOLDER/${run_name:}"
        )


def _check_scalars(tree: dict) -> None:
    """Finite numbers, and texts that can be stored, be part of a path and be shown."""
    for key, value in leaves(tree):
        for scalar in [key, *(value if isinstance(value, list) else [value])]:
            if isinstance(scalar, float) and not math.isfinite(scalar):
                raise InputError(key, f"must be a finite number, not {scalar}")
            if isinstance(scalar, str) and _CONTROL.search(scalar):
                raise InputError(key, f"must be text in Unicode without control characters, not {scalar!a}")


def _nodes(tree: object, key: str = "") -> Iterator[tuple[str, dict]]:
    """(dotted key, node) of every mapping with a `_target_`, at any depth, in lists too."""
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield key, tree
        for name, value in tree.items():
            yield from _nodes(value, _join(key, name))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _nodes(value, _join(key, index))


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)
