"""The network taken home: its weights as safetensors with a card that says how to build it, written and read back.

The card is input that may be hostile: it names a class only as a config may, a file only beside it, and holds nothing
that is evaluated; the weights are tensors and nothing else.
"""

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import safetensors.torch
from omegaconf import OmegaConf
from safetensors import SafetensorError

from mcl_lab.assembly.restore import Trained, networks_of, read_trained, untrained
from mcl_lab.config.check import check_network
from mcl_lab.config.identity import identity_of
from mcl_lab.config.values import check_value
from mcl_lab.errors import InputError
from mcl_lab.host.files import read_json
from mcl_lab.networks.portable import PortableNetwork
from mcl_lab.runs.checkpoints import checksum_of_weights
from mcl_lab.runs.journal import read_record
from mcl_lab.runs.provenance import CODE, VERSIONS
from mcl_lab.runs.result import read_result

FORMAT = 1
# What is relied on in a card, with its type; the rest is for people.
READ = {
    "format": 'Annotated[int, ">= 1"]',
    "peer": "str",
    "network": "dict",
    "classes": "list[str]",
    "num_classes": "int",
    "mean": "tuple[float, float, float]",
    "std": 'Annotated[tuple[float, float, float], "> 0"]',
    "weights": "str | None",
    "sha256": "dict[str, str]",
}
INPUT = (
    "images: float32 (B, 3, H, W), RGB in [0, 1]. The ONNX and pt2 programs and mcl_lab.load normalise them; the network "
    "that the weights are of takes (images - mean) / std"
)
OUTPUT = "logits: float32 (B, num_classes), in the order of classes"


def load(path: str | PathLike, peer: str | None = None) -> PortableNetwork:
    """See `mcl_lab.load`."""
    try:
        if Path(path).suffix in (".json", ".safetensors"):
            return _read_exported(Path(path), peer)
        trained = read_trained(Path(path))
        peers = sorted(trained.config.pair.peers)
        if peer is None and len(peers) > 1:
            which = f"has the peers {', '.join(peers)}; say which: peer={peers[0]!r}"
            raise InputError("task.peer", f"{trained.folder} {which}")
        (network,) = networks_of(trained, peer).values()
        return network
    except InputError as error:
        # Settings of a task are not what the caller can change.
        message = str(error).removeprefix("task.checkpoint: ").removeprefix("task.peer: ")
        raise ValueError(" ".join(message.split())) from error


def weights_of(network: PortableNetwork) -> bytes:
    """The content of a safetensors file: the state of `network.network`, whole and contiguous."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.network.state_dict().items()}
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def card_of(trained: Trained, key: str, image_size: tuple[int, int], files: Mapping[str, bytes]) -> dict:
    """The card of a peer's network. image_size: height and width that its programs take. files: their contents by name."""
    run, facts = trained.config, trained.facts
    identity = identity_of(run)
    result = read_result(trained.folder) or {}
    return {
        "format": FORMAT,
        "peer": key,
        "network": OmegaConf.to_container(run.pair.peers[key], resolve=True),
        "classes": list(facts.classes),
        "num_classes": len(facts.classes),
        "input": INPUT,
        "output": OUTPUT,
        "image_size": list(image_size),
        "mean": list(facts.mean),
        "std": list(facts.std),
        "weights": next((name for name in files if name.endswith(".safetensors")), None),
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "run": {
            "name": identity.name,
            "key": identity.run_key,
            "loss": run.loss.name,
            "dataset": run.data.name,
            "seed": run.seed,
            "precision": run.trainer.precision,
        },
        "figures": _final_metrics(trained, result, key),  # the name that earlier cards gave them
        "trained_in": _trained_in(trained.folder),
    }


def as_text(card: dict) -> bytes:
    """The content of a card's file. Raises InputError("task.checkpoint") for a damaged record's numbers, not in JSON."""
    try:
        text = json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        reason = "the run's result.json or record.json holds a number that is not finite"
        raise InputError("task.checkpoint", reason) from error
    try:
        return text.encode()
    except UnicodeEncodeError:  # the folder of a class may have a name that is no Unicode
        return json.dumps(card, indent=2).encode() + b"\n"


def network_of(card: dict, weights: bytes) -> PortableNetwork:
    """The network that a card describes, on the CPU, in eval mode. Raises InputError, whose key is a name in the card."""
    for name, kind in READ.items():
        if name not in card:
            raise InputError(name, "is missing")
        check_value(name, card[name], kind)
    if card["format"] > FORMAT:
        raise InputError("format", f"{card['format']} was written by a newer mcl_lab, this one reads up to {FORMAT}")
    if card["num_classes"] != len(card["classes"]):
        raise InputError("num_classes", f"is {card['num_classes']}, but {len(card['classes'])} classes have a name")
    if hashlib.sha256(weights).hexdigest() != card["sha256"].get(card["weights"]):
        raise InputError("sha256", f"is not that of {card['weights']}: the file is damaged, or of another export")
    node = check_network("network", card["network"])
    try:
        network = untrained(OmegaConf.create(node), "network", card["num_classes"])
    except InputError:
        raise
    except Exception as error:  # whatever a class raises that was never meant to be built from this
        raise InputError("network", f"cannot be built: {error}") from error
    try:
        network.load_state_dict(safetensors.torch.load(weights))
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError("weights", f"{card['weights']} does not hold the weights of this network: {error}") from error
    return PortableNetwork(network, classes=card["classes"], mean=card["mean"], std=card["std"]).eval()


def _read_exported(path: Path, peer: str | None) -> PortableNetwork:
    place = path.with_suffix(".json")
    try:
        card = read_json(place)
        if card is None:
            raise InputError("card", "is missing or damaged")
        name = card.get("weights")
        if not isinstance(name, str) or not _is_beside(name):
            raise InputError("weights", f"must be the name of a safetensors file beside the card, not {name!r}")
        if peer is not None and peer != card.get("peer"):
            raise InputError("peer", f"is {card.get('peer')!r}, not {peer!r}")
        return network_of(card, place.with_name(name).read_bytes())
    except InputError as error:
        raise InputError(str(place), str(error)) from error
    except OSError as error:
        raise InputError(str(place), f"cannot read {error.filename}: {error.strerror}") from error


def _is_beside(name: str) -> bool:
    """Whether it can only be a safetensors file in the folder where it is named."""
    return name.isprintable() and Path(name).name == name and name.endswith(".safetensors")


def _final_metrics(trained: Trained, result: dict, key: str) -> dict | None:
    """The final metrics of a peer, in % of the test images; None for a state that is not the run's last."""
    try:
        if checksum_of_weights(trained.state["parts"]) != result["weights"]:
            return None
        return {name: value for name, value in result["peers"][key].items() if type(value) in (int, float)}
    except (KeyError, TypeError, AttributeError):
        return None


def _trained_in(folder: Path) -> dict | None:
    """Code and versions that trained last. What the machine and its user are called is nobody else's business."""
    environments = (read_record(folder) or {}).get("environments")
    last = environments[-1] if isinstance(environments, list) and environments else None
    return {name: last[name] for name in (*CODE, *VERSIONS) if name in last} if isinstance(last, dict) else None
