"""Cohorts: what they put out, how branches hang on their network, and networks of one's own.

B batch, D embedding width, C classes.
"""

import pytest
import torch
from torch import nn

from mcl_lab.networks.cohort import Cohort, CohortOutput, Peer
from mcl_lab.networks.resnet import ResNet
from mcl_lab.networks.staged import StagedNetwork

B, C = 4, 5


class TwoStages(StagedNetwork):
    """A network of one's own: pooling inside the stages, a neck, dropout, its own initial values."""

    def __init__(self, width=6):
        stages = [
            nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.5)),
        ]
        neck = nn.Sequential(nn.Conv2d(8, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        super().__init__(nn.Conv2d(3, 4, 3, padding=1), stages, neck, width=width, num_classes=C)

    def initialise(self, module):
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight)
                nn.init.constant_(layer.bias, 0.25)


def small_resnet(widths=(4, 8, 8)):
    return ResNet(C, block="basic", blocks=[1] * len(widths), widths=widths)


@pytest.fixture
def images():
    return torch.randn(B, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cohort():
    """Peers that differ in family, width and number of stages."""
    torch.manual_seed(0)
    return Cohort({"a": small_resnet(), "b": TwoStages(), "c": small_resnet((3, 5, 7, 9))}, branches=True)


def test_output_has_embeddings_and_logits_of_every_peer_and_stage(cohort, images):
    output = cohort(images)
    assert isinstance(output, CohortOutput)
    assert cohort.widths == [8, 6, 9]
    assert cohort.heads == [3, 2, 4]
    for i, (width, heads) in enumerate(zip(cohort.widths, cohort.heads, strict=True)):
        assert [tuple(e.shape) for e in output.embeddings[i]] == [(B, width)] * heads
        assert [tuple(scores.shape) for scores in output.logits[i]] == [(B, C)] * heads
        assert all((e >= 0).all() and (e > 0).any() for e in output.embeddings[i])


def test_last_head_is_the_networks_own(cohort, images):
    cohort.eval()
    output = cohort(images)
    for peer, embeddings, logits in zip(cohort.peers.values(), output.embeddings, output.logits, strict=True):
        assert logits[-1].equal(peer.network(images))
        assert embeddings[-1].equal(peer.network.embed(peer.network.taps(images)[-1]))


def test_branch_goes_on_from_the_tap_after_its_stage(cohort, images):
    cohort.eval()
    output = cohort(images)
    for i, peer in enumerate(cohort.peers.values()):
        for k, branch in enumerate(peer.branches):
            features = peer.network.taps(images)[k]
            for stage in branch.stages:
                features = stage(features)
            embedding = branch.neck(features).mean((2, 3))
            torch.testing.assert_close(output.embeddings[i][k], embedding)
            torch.testing.assert_close(output.logits[i][k], branch.classifier(embedding))


def test_branch_has_the_layers_of_the_later_stages(cohort):
    for peer in cohort.peers.values():
        for k, branch in enumerate(peer.branches):
            assert shapes(branch.stages) == shapes(peer.network.stages[k + 1 :])
            assert shapes(branch.neck) == shapes(peer.network.neck)
            assert shapes(branch.classifier) == shapes(peer.network.classifier)


def test_no_two_heads_share_or_repeat_values(cohort):
    for peer in cohort.peers.values():
        own = [stage.state_dict() for stage in peer.network.stages]
        for k, branch in enumerate(peer.branches):
            for later, stage in zip(own[k + 1 :], branch.stages, strict=True):
                for name, value in stage.named_parameters():
                    assert value.dim() == 1 or not value.equal(later[name])
        classifiers = [peer.network.classifier.weight, *(branch.classifier.weight for branch in peer.branches)]
        assert all(not a.equal(b) for i, a in enumerate(classifiers) for b in classifiers[:i])
    every = [value.data_ptr() for _, value in cohort.named_parameters(remove_duplicate=False)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("k", [0, 1])
def test_loss_of_a_branch_trains_the_stages_before_its_tap_and_no_later_ones(images, k):
    torch.manual_seed(0)
    peer = Peer(small_resnet(), branches=True)
    _, logits = peer(images)
    nn.functional.cross_entropy(logits[k], torch.arange(B)).backward()
    network = peer.network
    for module in [network.stem, *network.stages[: k + 1], peer.branches[k]]:
        assert all((value.grad != 0).any() for value in module.parameters())
    for module in [*network.stages[k + 1 :], network.classifier, peer.branches[1 - k]]:
        assert all(value.grad is None for value in module.parameters())


def test_without_branches_each_peer_is_its_network(images):
    network = small_resnet().eval()
    cohort = Cohort({"a": network}, branches=False)
    output = cohort(images)
    assert cohort.heads == [1]
    assert [len(stages) for stages in output.logits] == [1]
    assert output.logits[0][0].equal(network(images))
    assert sum(value.numel() for value in cohort.parameters()) == sum(value.numel() for value in network.parameters())


def test_networks_own_initial_values_hold_in_its_branches(cohort):
    peer = cohort.peers["b"]
    for module in (peer.network, peer.branches[0]):
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
        assert all((layer.bias == 0.25).all() and 0.7 < layer.weight.std() < 1.4 for layer in layers)


def test_branches_forget_what_their_network_has_learned(images):
    network = TwoStages()
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(7.0)
    network(images)  # running statistics move
    branch = Peer(network, branches=True).branches[0]
    assert all((value != 7).any() for value in branch.parameters())
    assert (branch.neck[1].running_mean == 0).all() and (branch.neck[1].running_var == 1).all()
    assert branch.neck[1].num_batches_tracked == 0


def test_dropout_in_training_only(cohort, images):
    cohort.train()
    assert not cohort(images).logits[1][0].equal(cohort(images).logits[1][0])
    cohort.eval()
    assert cohort(images).logits[1][0].equal(cohort(images).logits[1][0])


def test_bfloat16_networks_put_out_float32(images):
    torch.manual_seed(0)
    network = small_resnet()
    exact = Cohort({"a": network}, branches=False)(images)
    output = Cohort({"a": network}, branches=False, autocast=torch.bfloat16)(images)
    for values, reference in zip(output, exact, strict=True):
        values, reference = values[0][0], reference[0][0]
        assert values.dtype == torch.float32
        assert values.equal(values.bfloat16().float())  # computed in bfloat16
        torch.testing.assert_close(values, reference, rtol=0.05, atol=0.05)
    output.logits[0][0].sum().backward()
    assert all(value.grad.dtype == torch.float32 for value in network.parameters())


def test_state_goes_from_one_cohort_to_another(cohort, images):
    other = Cohort({"a": small_resnet(), "b": TwoStages(), "c": small_resnet((3, 5, 7, 9))}, branches=True)
    cohort(images)  # running statistics are part of the state
    other.load_state_dict(cohort.state_dict())
    for ours, theirs in zip(cohort.eval()(images), other.eval()(images), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert all(x.equal(y) for x, y in zip(a, b, strict=True))


def shapes(module):
    return [(name, tuple(value.shape)) for name, value in module.state_dict().items()]
