"""task=summary: what a cohort is made of."""

from typing import Annotated, Literal

from omegaconf import DictConfig

from mcl_lab.assembly.learners import build_network, refuse_uncopied
from mcl_lab.networks.cohort import Peer
from mcl_lab.terminal.counts import show_counts
from mcl_lab.terminal.output import put_out
from mcl_lab.training.measurement import frozen_parameters, multi_adds, parameters


def summary(
    config: DictConfig,
    *,
    format: Literal["table", "json"] = "table",
    num_classes: Annotated[int, ">= 2"] = 100,
    image_size: Annotated[int, ">= 1"] = 32,
) -> None:
    """Print parameters, multi-adds for one image, embedding width and stages of each peer, with and without branches.

    num_classes, image_size: what is counted for; the data set itself is not read.
    """
    nodes = config.pair.peers
    peers: dict[str, dict[str, str | int]] = {}
    for key in sorted(nodes):
        alike = next((other for other in peers if nodes[other] == nodes[key]), None)  # counted already
        peers[key] = peers[alike] if alike else _counts(nodes[key], key, num_classes, image_size)
    told = {"num_classes": num_classes, "image_size": image_size, "peers": peers}
    put_out(format, told, lambda console: show_counts(console, told))


def _counts(node: DictConfig, key: str, num_classes: int, image_size: int) -> dict[str, str | int]:
    network = build_network(node, key, num_classes)
    refuse_uncopied(key, network)
    peer = Peer(network, branches=True)
    return {
        "network": node.name,
        "stages": len(network.stages),
        "width": network.width,
        "parameters": parameters(network),
        "multi_adds": multi_adds(network, image_size),
        "parameters_with_branches": parameters(peer),
        "multi_adds_with_branches": multi_adds(peer, image_size),
        "frozen_parameters": frozen_parameters(network),
        "frozen_parameters_with_branches": frozen_parameters(peer),
    }
