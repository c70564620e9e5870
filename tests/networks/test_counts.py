"""What networks cost, against the counts of the authors' code (100 classes, one image of 32 x 32)."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from published_networks import COUNTS

from mcl_lab.assembly.learners import build_network
from mcl_lab.networks.cohort import Peer
from mcl_lab.training.measurement import multi_adds, parameters

NETWORKS = Path(__file__).parents[2] / "conf" / "network"


def from_config(name, num_classes=100):
    return build_network(OmegaConf.load(NETWORKS / f"{name}.yaml"), "a", num_classes)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full if name == "hcgnet_a2" else []) for name in COUNTS]
)
def test_parameters_and_multi_adds(name):
    network = from_config(name)
    peer = Peer(network, branches=True)
    counts = (parameters(network), multi_adds(network, 32), parameters(peer), multi_adds(peer, 32), network.width)
    assert counts == COUNTS[name]


@pytest.mark.parametrize(("name", "depth"), [("resnet8", 8), ("resnet20", 20), ("resnet32", 32), ("resnet56", 56)])
def test_depth_is_what_the_name_says(name, depth):
    network = from_config(name)
    on_the_main_path = [
        key for key, value in network.named_parameters() if value.dim() > 1 and ".shortcut." not in key
    ]  # convolutions and linear layers
    assert len(on_the_main_path) == depth
