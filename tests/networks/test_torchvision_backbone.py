"""Torchvision's classifiers: taken apart and put together to the same thing, branches that start as they do, a step."""

from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from test_counts import from_config
from torch import nn
from torchvision_table import COMMAND, FAMILIES, arguments, models_of, no_values, span, table

from mcl_lab.networks.cohort import Peer
from mcl_lab.networks.torchvision_backbone import TorchvisionBackbone

RESNET = dict(model="resnet18", stem=["conv1", "bn1", "relu", "maxpool"], stages=[[f"layer{k}"] for k in (1, 2, 3, 4)])
SQUEEZENET = dict(model="squeezenet1_1", stem=["features.0", "features.1"], stages=[["features.3"], ["features.4"]])
SWIN = dict(model="swin_t", stem=["features.0"], stages=[["features.1"], ["features.2", "features.3"]])
TABLE = Path(__file__).resolve().parents[2] / "docs" / "torchvision.md"
SMALL = ["convnext_tiny", "densenet121", "squeezenet1_1", "swin_t"]  # of their families
SMALL += ["efficientnet_b0", "regnet_x_400mf", "resnet18", "mnasnet0_5", "shufflenet_v2_x0_5"]
SIZES = {"maxvit_t": 224, "inception_v3": 96}


def family_of(model):
    (family,) = (family for family in FAMILIES if model in models_of(family))
    return family


def representatives():
    """A model of each family but vit, of which there is no network; three of them every day."""
    chosen = [next((name for name in models_of(family) if name in SMALL), models_of(family)[0]) for family in FAMILIES]
    return [
        pytest.param(model, marks=[] if model in SMALL[:3] else pytest.mark.full)
        for model in chosen
        if not model.startswith("vit")
    ]


def own_classifier_gets(model, family, images):
    """What the model hands to its own classifier."""
    got = []
    hook = model.get_submodule(family.classifier).register_forward_pre_hook(lambda _, given: got.append(given[0]))
    model.eval()(images)
    hook.remove()
    return got[0]


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


@pytest.mark.parametrize("model", representatives())
def test_embeddings_are_what_the_models_own_classifier_gets(model):
    """The same values by the same seed: looking at the model draws nothing. A pooling to several pixels is averaged."""
    family = family_of(model)
    torch.manual_seed(0)
    reference = torchvision.models.get_model(model, weights=None)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    network = TorchvisionBackbone(5, model=model, **arguments(family)).eval()
    head = network.classifier.state_dict()
    torch.set_rng_state(state)
    assert all(value.equal(head[name]) for name, value in nn.Linear(network.width, 5).state_dict().items())
    network.check()
    for module in (reference, network):
        for name, value in module.named_parameters():
            if name.endswith("layer_scale"):  # which would hide its block
                nn.init.constant_(value, 0.5)
    images = torch.randn(2, 3, *[SIZES.get(model, 64)] * 2)
    with torch.no_grad():
        expected = own_classifier_gets(reference, family, images).reshape(2, network.width, -1).mean(2)
        embeddings = network.embed(network.taps(images)[-1])
    assert expected.std() > 0
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.full
def test_the_table_of_all_classifiers_is_current():
    assert TABLE.read_text(encoding="utf-8") == table(), f"docs/torchvision.md is not current: {COMMAND}"


def test_a_network_may_end_early():
    network = TorchvisionBackbone(
        5, model="densenet121", stem=["features.conv0", "features.norm0", "features.relu0"],
        stages=[["features.denseblock1", "features.transition1"], ["features.denseblock2"]],
        neck=["features.transition2"],
    )  # fmt: skip
    network.check()
    with torch.no_grad():
        taps = network.taps(torch.zeros(2, 3, 32, 32))
    assert [tuple(tap.shape) for tap in taps] == [(2, 128, 8, 8), (2, 512, 8, 8)]
    assert network.width == 256


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_stages_may_be_cut_anywhere_and_any_step_left_out_is_named(data):
    """Max-pools may be left out, and what comes after the last step that is named."""
    steps = span("features", 0, 12)
    pools = [steps[k] for k in (2, 5, 8)]
    kept = [step for step in steps if step not in pools or data.draw(st.booleans())]
    first, second = sorted(data.draw(st.sets(st.integers(1, len(kept)), min_size=2, max_size=2)))
    parts = dict(stem=kept[:first], stages=[kept[first:second]], neck=kept[second:])
    TorchvisionBackbone(5, model="squeezenet1_1", **parts).check()
    lost = data.draw(st.sampled_from([step for step in kept[:-1] if step not in pools]))
    parts = {name: without(part, lost) for name, part in parts.items()}
    with pytest.raises(ValueError, match=rf"\b{lost}\b"):
        TorchvisionBackbone(5, model="squeezenet1_1", **parts).check()


def without(part, lost):
    if part and isinstance(part[0], list):
        return [without(stage, lost) for stage in part]
    return [step for step in part if step != lost]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "densenet121", "neck": ["features.norm5"]},
         "does relu between features.norm5 and its classifier; name it too"),
        ({"model": "convnext_tiny", "neck": []}, "avgpool, classifier.0 between features.7 and its classifier; name them"),
        ({"model": "convnext_tiny", "neck": ["classifier.0"]}, "also does avgpool between features.7 and classifier.0"),
        ({"model": "swin_t", "neck": ["norm"]}, "also does permute between norm and its classifier"),
        ({**SWIN, "neck": []}, "channels first"),
        ({"model": "maxvit_t", "neck": []}, "classifier.0, classifier.1, classifier.2 between blocks.3"),
        ({**RESNET, "stem": ["conv1"]}, "bn1, relu between conv1 and layer1"),
    ],
)  # fmt: skip
def test_steps_that_the_parts_lack_are_named_before_training(change, words):
    """And not before: what was trained without them is still read."""
    with no_values():
        network = TorchvisionBackbone(5, **{**arguments(family_of(change["model"])), **change})
    with pytest.raises(ValueError, match=words):
        network.check()


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
        ({"stages": [["layer2"], ["layer1"]]}, "also does layer1 between maxpool and layer2; name it too"),
        ({"neck": ["fc"]}, "also does avgpool, flatten between layer4 and fc; name them too"),
        ({**SWIN, "stem": []}, "features.0"),
        ({"model": "vit_b_16", "stem": ["conv_proj"], "stages": [["encoder"]]}, "class_token.*cannot"),
        ({"model": "vit_b_16", "stem": [], "stages": [["encoder"]]}, "conv_proj.*cannot"),
        ({"neck": ["avgpool.flatten"]}, "no child 'avgpool.flatten'"),
    ],
)
def test_what_cannot_be_built(change, words):
    with no_values(), pytest.raises(ValueError, match=words):
        TorchvisionBackbone(10, **{**RESNET, **change})
