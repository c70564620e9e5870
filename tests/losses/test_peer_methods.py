"""Mutual learning, ensemble distillation and last-layer contrastive learning against their formulas written out.

N peers, B batch, C classes; every peer has auxiliary heads too, which these terms must not look at.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl_lab.losses.distillation import EnsembleDistillation, MutualLearning
from mcl_lab.losses.mutual_contrastive import LastLayerContrastiveLearning
from mcl_lab.losses.term import LossInput

B, C = 6, 4
WIDTHS, HEADS = [5, 3, 8, 4], [2, 1, 3, 2]

peers = dict(count=st.integers(2, 4), seed=st.integers(0, 2**32), weight=st.floats(0.1, 10))
temperatures = st.floats(0.5, 10)


def make_input(count, seed):
    """What the first `count` peers put out, of float64 and taking gradients, with two images of each label."""
    generator = torch.Generator().manual_seed(seed)

    def leaves(size, heads):
        values = torch.randn(heads, B, size, generator=generator, dtype=torch.float64)
        return [value.requires_grad_() for value in values]

    embeddings = [leaves(size, heads) for size, heads in zip(WIDTHS[:count], HEADS, strict=False)]
    logits = [leaves(C, heads) for heads in HEADS[:count]]
    return LossInput(embeddings, logits, None, torch.tensor([2, 0, 3, 0, 3, 2]), None)


def assert_same(loss, expected, batch, parameters=()):
    """Value and gradients, those by auxiliary heads included."""
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    leaves = [leaf for kind in (batch.embeddings, batch.logits) for stages in kind for leaf in stages] + [*parameters]
    ours, theirs = (
        torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True) for value in (loss, expected)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def kl(teacher, student, temperature):
    """T^2 KL(teacher, held fixed || student), mean over the rows."""
    p, q = ((logits / temperature).exp() for logits in (teacher.detach(), student))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return temperature**2 * (p * (p / q).log()).sum() / len(p)


@settings(max_examples=20, deadline=None)
@given(**peers, temperature=temperatures)
def test_mutual_learning(count, seed, weight, temperature):
    batch = make_input(count, seed)
    own = [stages[-1] for stages in batch.logits]
    expected = sum(kl(own[j], own[i], temperature) / (count - 1) for i in range(count) for j in range(count) if j != i)
    losses = MutualLearning(weight, temperature)(batch)
    assert set(losses) == {"mutual_learning"}
    assert_same(losses["mutual_learning"], weight * expected, batch)


def plain_ensemble(name, own, labels):
    """The teacher's logits, image by image and class by class."""
    rows = []
    for r, label in enumerate(labels.tolist()):
        logits = [peer[r].tolist() for peer in own]
        if name == "minlogit":
            rows.append([min(peer[c] - peer[label] for peer in logits) for c in range(C)])
        elif name == "naive":
            rows.append(max(logits, key=lambda peer: torch.tensor(peer).softmax(0)[label].item()))
        else:
            rows.append([sum(peer[c] for peer in logits) / len(own) for c in range(C)])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("ensemble", ["minlogit", "naive", "mean"])
@settings(max_examples=10, deadline=None)
@given(**peers, temperature=temperatures)
def test_ensemble_distillation(ensemble, count, seed, weight, temperature):
    batch = make_input(count, seed)
    own = [stages[-1] for stages in batch.logits]
    teacher = plain_ensemble(ensemble, own, batch.labels)
    expected = sum(kl(teacher, student, temperature) for student in own)
    losses = EnsembleDistillation(weight, temperature, ensemble)(batch)
    assert set(losses) == {"ensemble_distillation"}
    assert_same(losses["ensemble_distillation"], weight * expected, batch)


def published_contrastive(embeddings, labels, temperature, kd_temperature):
    """As the MCL authors sum: a network's vcl once, everything between two networks once for each that learns."""
    networks = range(len(embeddings))
    G = {(a, b): embeddings[a] @ embeddings[b].T / temperature for a in networks for b in networks}

    def nce(similarity):
        loss = 0
        for r in range(B):
            others = [c for c in range(B) if c != r]
            (positive,) = [c for c in others if labels[c] == labels[r]]
            loss = loss - torch.log(similarity[r, positive].exp() / similarity[r, others].exp().sum()) / B
        return loss

    between = [(a, b) for a in networks for b in networks if a != b]
    return {
        "vcl": sum(nce(G[a, a]) for a in networks),
        "soft_vcl": sum(kl(G[b, b], G[a, a], kd_temperature) for a, b in between),
        "icl": sum(nce(G[pair]) for pair in between),
        "soft_icl": sum(kl(G[b, a], G[a, b], kd_temperature) for a, b in between),
    }


@settings(max_examples=12, deadline=None)
@given(
    count=st.integers(2, 4),
    seed=st.integers(0, 2**32),
    weights=st.lists(st.floats(0.05, 2), min_size=4, max_size=4),
    temperature=st.floats(0.1, 2),
    kd_temperature=st.floats(0.5, 5),
)
def test_last_layer_contrastive_learning(count, seed, weights, temperature, kd_temperature):
    batch = make_input(count, seed)
    weights = dict(zip(("vcl", "soft_vcl", "icl", "soft_icl"), weights, strict=True))
    torch.manual_seed(seed)
    options = dict(temperature=temperature, kd_temperature=kd_temperature, width=7)
    term = LastLayerContrastiveLearning(WIDTHS[:count], **weights, **options).double()
    projected = []
    for ((first, _, second),), stages in zip(term.projections, batch.embeddings, strict=True):
        h = (stages[-1] @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
        projected.append(h / h.square().sum(1, keepdim=True).sqrt())
    expected = published_contrastive(projected, batch.labels, temperature, kd_temperature)
    losses = term(batch._replace(pair_weights=torch.rand(1)))  # there are no layers to weigh
    assert losses.keys() == weights.keys()
    for name, weight in weights.items():
        assert_same(losses[name], weight * expected[name], batch, term.parameters())


def test_weight_zero_looks_at_nothing():
    nothing = LossInput(None, None, None, None, None)
    contrastive = LastLayerContrastiveLearning(WIDTHS, vcl=0, soft_vcl=0, icl=0, soft_icl=0)
    for term in (MutualLearning(0), EnsembleDistillation(0), contrastive):
        assert term(nothing) == {}
