"""Accuracies against counting image by image."""

from collections import namedtuple

import pytest
import torch
from torch import nn

from mcl_lab.training.evaluation import evaluate

Output = namedtuple("Output", "logits")


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
        return Output([[first, second], [third]])


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


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back(training):
    cohort = Lookup(4, 3).train(training)
    evaluate(cohort, lambda output: None, batches(torch.zeros(4, dtype=torch.int64), 2))
    assert cohort.training is training and set(cohort.modes) == {(False, True)}


def test_the_mode_is_put_back_when_broken_off():
    cohort = Lookup(4, 3).train()

    def broken():
        yield batches(torch.zeros(4, dtype=torch.int64), 2)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(cohort, lambda output: None, broken())
    assert cohort.training
