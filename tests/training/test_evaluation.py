"""Accuracies against counting image by image."""

from collections import namedtuple

import pytest
import torch
from torch import nn

from mcl_lab.training.evaluation import evaluate

Output = namedtuple("Output", "embeddings logits")


class Lookup(nn.Module):
    """Two peers, of two heads and of one, whose logits are written down for each image; the image is its number."""

    def __init__(self, images, classes):
        super().__init__()
        self.peers = nn.ModuleDict({"x": nn.Identity(), "y": nn.Identity()})
        self.logits = torch.randn(3, images, classes, generator=torch.Generator().manual_seed(0))
        self.modes = []

    def forward(self, images):
        self.modes.append((self.training, torch.is_inference_mode_enabled()))
        first, second, third = self.logits[:, images.long()]
        return Output([[first, second], [third]], [[first, second], [third]])


def batches(labels, size):
    return list(zip(torch.arange(len(labels)).split(size), labels.split(size), strict=True))


def counted(logits, labels, rank):
    """% of images whose label is among the `rank` largest logits."""
    hits = 0
    for scores, label in zip(logits.tolist(), labels.tolist(), strict=True):
        hits += label in sorted(range(len(scores)), key=lambda c: -scores[c])[:rank]
    return pytest.approx(100 * hits / len(labels))


@pytest.mark.parametrize(("classes", "rank"), [(9, 5), (5, 5), (3, 3)])
@pytest.mark.parametrize("size", [7, 20, 21])
def test_every_head(classes, rank, size):
    cohort, labels = Lookup(20, classes), torch.arange(20) % classes  # batches of 7, 7, 6; of 20
    found = evaluate(cohort, lambda output: None, batches(labels, size))
    heads = {"x": {"stage1": 0, "own_head": 1}, "y": {"own_head": 2}}
    for name, best in (("top1", 1), ("top5", rank)):
        expected = {
            peer: {head: counted(cohort.logits[place], labels, best) for head, place in places.items()}
            for peer, places in heads.items()
        }
        assert found[name] == expected


def test_ensembles():
    cohort, labels = Lookup(20, 9), torch.arange(20) % 9
    found = evaluate(cohort, lambda output: [sum(peer) for peer in output.logits], batches(labels, 6))
    first, second, third = cohort.logits
    assert found["top1"]["x"] == {
        "stage1": counted(first, labels, 1),
        "own_head": counted(second, labels, 1),
        "ensemble": counted(first + second, labels, 1),
    }
    assert found["top5"]["x"]["ensemble"] == counted(first + second, labels, 5)
    assert found["top1"]["y"] == {"own_head": counted(third, labels, 1), "ensemble": counted(third, labels, 1)}


class Three(Lookup):
    """Three peers, of two heads, one and two, whose embeddings are written down for each image."""

    def __init__(self, images):
        super().__init__(images, 3)
        self.peers = nn.ModuleDict({name: nn.Identity() for name in "zxy"})
        self.embeddings = torch.randn(5, images, 4, generator=torch.Generator().manual_seed(1))

    def forward(self, images):
        embeddings = list(self.embeddings[:, images.long()])
        peers = [embeddings[:2], embeddings[2:3], embeddings[3:]]
        return Output(peers, [[stage[:, :3] for stage in peer] for peer in peers])


@pytest.mark.parametrize("size", [7, 20])
@pytest.mark.parametrize("ensembles", [lambda output: None, lambda output: [sum(peer) for peer in output.logits]])
def test_layer_weights(size, ensembles):
    """Against averaging image by image, by a weight network written out."""

    def weight(a, b):
        return torch.sigmoid((a * b).sum(-1))

    def pair_weights(embeddings):
        return torch.stack(
            [
                weight(a, b)
                for i, first in enumerate(embeddings)
                for j, second in enumerate(embeddings)
                if j != i
                for a in first
                for b in second
            ]
        )

    cohort = Three(20)
    found = evaluate(cohort, ensembles, batches(torch.arange(20) % 3, size), pair_weights)
    names = ["z.stage1", "z.own_head", "x.own_head", "y.stage1", "y.own_head"]
    assert found["layer_weights"] == {
        f"{names[a]}-{names[b]}": pytest.approx(
            sum(weight(cohort.embeddings[a, n], cohort.embeddings[b, n]).item() for n in range(20)) / 20
        )
        for a, b in [(0, 2), (1, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 3), (2, 4)]
    }
    unweighted = evaluate(cohort, ensembles, batches(torch.arange(20) % 3, size))
    assert unweighted == {name: found[name] for name in ("top1", "top5")}


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back(training):
    cohort = Lookup(4, 3).train(training)
    evaluate(cohort, lambda output: None, batches(torch.zeros(4, dtype=torch.int64), 2))
    assert cohort.training is training and set(cohort.modes) == {(False, True)}


def test_what_ensembles_are_made_of_is_in_evaluation_mode_too():
    cohort, modules = Lookup(4, 3), [nn.Dropout(0.5).train(), nn.BatchNorm1d(3).eval()]
    modes = []

    def ensembles(output):
        modes.append([module.training for module in modules])

    evaluate(cohort, ensembles, batches(torch.zeros(4, dtype=torch.int64), 2), beside=modules)
    assert modes == [[False, False]] * 2 and [module.training for module in modules] == [True, False]


def test_the_mode_is_put_back_when_broken_off():
    cohort = Lookup(4, 3).train()

    def broken():
        yield batches(torch.zeros(4, dtype=torch.int64), 2)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(cohort, lambda output: None, broken())
    assert cohort.training
