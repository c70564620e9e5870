"""Torchvision's classifiers: taken apart and put together to the same thing, branches that start as they do, a step."""

import pytest
import torch
import torchvision
from test_counts import from_config
from torch import nn

from mcl_lab.networks.cohort import Peer
from mcl_lab.networks.torchvision_backbone import TorchvisionBackbone

RESNET = dict(model="resnet18", stem=["conv1", "bn1", "relu", "maxpool"], stages=[[f"layer{k}"] for k in (1, 2, 3, 4)])
SQUEEZENET = dict(model="squeezenet1_1", stem=["features.0", "features.1"], stages=[["features.3"], ["features.4"]])


def test_put_together_it_is_the_model():
    """With every child in its place; the values go over in the order that both list them."""
    torch.manual_seed(0)
    network, model = TorchvisionBackbone(10, **RESNET), torchvision.models.resnet18(num_classes=10)
    values = iter(network.state_dict().values())
    model.load_state_dict({name: next(values) for name in model.state_dict()})
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network(images), model(images))
    assert next(values, None) is None
    assert network.width == 512 and len(network.stages) == 4


def test_stages_of_several_children_and_a_neck():
    network = TorchvisionBackbone(
        5, model="densenet121", stem=["features.conv0", "features.norm0", "features.relu0"],
        stages=[["features.denseblock1", "features.transition1"], ["features.denseblock2"]],
        neck=["features.transition2"],
    )  # fmt: skip
    with torch.no_grad():
        taps = network.taps(torch.zeros(2, 3, 32, 32))
    assert [tuple(tap.shape) for tap in taps] == [(2, 128, 8, 8), (2, 512, 8, 8)]
    assert network.width == 256


def test_branches_start_as_torchvision_does():
    """Fire modules by He's uniform values, which PyTorch's own layers do not start from, and biases of 0."""
    network = TorchvisionBackbone(5, **SQUEEZENET)
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(7.0)
    (branch,) = Peer(network, branches=True).branches
    for layer in branch.stages.modules():
        if isinstance(layer, nn.Conv2d):
            bound = (6 / layer.weight[0].numel()) ** 0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert (layer.bias == 0).all()
    assert (branch.classifier.weight != 7).any()


def test_the_example_trains_a_step_with_its_branches():
    torch.manual_seed(0)
    peer = Peer(from_config("torchvision_resnet18", num_classes=4), branches=True)
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.02)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    losses = []
    for _ in range(3):
        embeddings, logits = peer(images)
        assert [tuple(embedding.shape) for embedding in embeddings] == [(8, 512)] * 4
        loss = sum(nn.functional.cross_entropy(scores, labels) for scores in logits)
        optimizer.zero_grad()
        loss.backward()
        assert all(value.grad is not None for value in peer.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "resnet19"}, "torchvision.models has no classifier 'resnet19'"),
        ({"model": "fcn_resnet50"}, "no classifier"),  # of another kind
        ({"stages": []}, "one stage or more"),
        ({"stages": [["layer9"]]}, "resnet18 has no child 'layer9'.* conv1, bn1, .*layer4"),
        ({"stages": [["layer2"], ["layer1"]]}, "do not fit together"),
        ({"neck": ["fc"]}, "do not fit together"),
        ({"model": "swin_t", "stem": ["features.0"], "stages": [["features.1"]], "neck": ["flatten"]}, "not 1"),
        ({"neck": ["avgpool.flatten"]}, "no child 'avgpool.flatten'"),
    ],
)
def test_what_cannot_be_built(change, words):
    with pytest.raises(ValueError, match=words):
        TorchvisionBackbone(10, **{**RESNET, **change})
