"""task=summary: what a cohort is made of."""

import json
from typing import Annotated, Literal

from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from mcl_lab.networks.cohort import Peer
from mcl_lab.networks.summary import multi_adds, parameters
from mcl_lab.tasks import build


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
    peers = {}
    for key in sorted(config.pair.peers):
        network = build.build_network(config.pair.peers[key], key, num_classes)
        peer = Peer(network, branches=True)
        peers[key] = {
            "network": config.pair.peers[key].name,
            "stages": len(network.stages),
            "width": network.width,
            "parameters": parameters(network),
            "multi_adds": multi_adds(network, image_size),
            "parameters_with_branches": parameters(peer),
            "multi_adds_with_branches": multi_adds(peer, image_size),
        }
    if format == "json":
        print(json.dumps({"num_classes": num_classes, "image_size": image_size, "peers": peers}, indent=2))
    else:
        Console().print(_table(peers, f"{num_classes} classes, images of {image_size} x {image_size}"))


def _table(peers: dict[str, dict], title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("peer")
    for name in ("stages", "width", "parameters", "multi-adds", "parameters,\nbranches too", "multi-adds,\nbranches too"):
        table.add_column(name, justify="right")
    for key, peer in peers.items():
        network, *counts = peer.values()
        table.add_row(f"{key}: {network}", *(f"{count:,}" for count in counts))
    return table
