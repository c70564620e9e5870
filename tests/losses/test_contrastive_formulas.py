"""mutual_contrastive against its formulas written out pair by pair and anchor by anchor.

N peers, S_i stages of peer i, P pairs, B batch, d width; G a matrix of similarities, w the weight of every row.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import plain_mutual_contrastive

from mcl_lab.losses.contrastive import TERMS, mutual_contrastive


def make_batch(stages, class_sizes, width=5, seed=0):
    """Embeddings [i][k] (B, d) and pair weights (P, B), both of float64 and taking gradients, and labels (B,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(class_sizes)).repeat_interleave(torch.tensor(class_sizes))
    labels = labels[torch.randperm(len(labels), generator=generator)]

    def unit():
        values = torch.randn(len(labels), width, dtype=torch.float64, generator=generator)
        return torch.nn.functional.normalize(values).requires_grad_()

    embeddings = [[unit() for _ in range(count)] for count in stages]
    pairs = sum(stages) ** 2 - sum(count**2 for count in stages)
    weights = torch.randn(pairs, len(labels), dtype=torch.float64, generator=generator).requires_grad_()
    return embeddings, labels, weights


def assert_equal_by_formula(stages, class_sizes, temperature, kd_temperature, seed):
    embeddings, labels, weights = make_batch(stages, class_sizes, seed=seed)
    leaves = [e for peer in embeddings for e in peer] + [weights]
    ours = mutual_contrastive(embeddings, labels, weights, temperature=temperature, kd_temperature=kd_temperature)
    plain = plain_mutual_contrastive(embeddings, labels, weights, temperature, kd_temperature)
    for term in TERMS:
        expected = plain[term]
        if not isinstance(expected, torch.Tensor):  # no anchor has a positive
            expected = 0 * weights.sum()
        assert_close(getattr(ours, term), expected)
        for a, b in zip(gradients(getattr(ours, term), leaves), gradients(expected, leaves), strict=True):
            assert_close(a, b)


def gradients(loss, leaves):
    return torch.autograd.grad(loss, leaves, retain_graph=True, materialize_grads=True)


def assert_close(ours, expected):
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= 1e-9 * expected.abs().max() + 1e-12


cases = dict(
    stages=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    class_sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    temperature=st.floats(0.05, 2.0),
    kd_temperature=st.floats(0.5, 5.0),
    seed=st.integers(0, 2**32),
)
small_cases = cases | dict(
    stages=st.lists(st.integers(1, 2), min_size=2, max_size=3),
    class_sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)


@settings(max_examples=12, deadline=None)
@given(**small_cases)
def test_losses_and_gradients(stages, class_sizes, temperature, kd_temperature, seed):
    assert_equal_by_formula(stages, class_sizes, temperature, kd_temperature, seed)


@pytest.mark.full
@settings(max_examples=100, deadline=None)
@given(**cases)
def test_losses_and_gradients_of_larger_cohorts(stages, class_sizes, temperature, kd_temperature, seed):
    assert_equal_by_formula(stages, class_sizes, temperature, kd_temperature, seed)


def test_four_peers_of_unequal_stages():
    assert_equal_by_formula([1, 3, 2, 1], [1, 2, 3], temperature=0.1, kd_temperature=3.0, seed=0)


@pytest.mark.parametrize("class_sizes", [[1], [1, 1, 1]])
def test_anchors_without_positives_add_nothing(class_sizes):
    embeddings, labels, weights = make_batch([2, 1], class_sizes)
    losses = mutual_contrastive(embeddings, labels, weights)
    leaves = [e for peer in embeddings for e in peer] + [weights]
    for loss in (losses.vcl, losses.icl):
        assert loss == 0
        assert all((gradient == 0).all() for gradient in gradients(loss, leaves))


def test_without_weights_every_pair_weighs_one():
    embeddings, labels, weights = make_batch([2, 1, 1], [2, 2, 1])
    unweighted = mutual_contrastive(embeddings, labels)
    for a, b in zip(unweighted, mutual_contrastive(embeddings, labels, torch.ones_like(weights)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@pytest.mark.parametrize("terms", [("vcl",), ("soft_icl",), ("icl", "soft_vcl"), ("vcl", "icl"), TERMS, ()])
def test_only_the_terms_asked_for(terms):
    embeddings, labels, weights = make_batch([2, 1], [2, 2])
    everything = mutual_contrastive(embeddings, labels, weights)
    losses = mutual_contrastive(embeddings, labels, weights, terms=terms)
    for term in TERMS:
        assert (getattr(losses, term) is not None) == (term in terms)
        assert term not in terms or getattr(losses, term).equal(getattr(everything, term))


@pytest.mark.parametrize("temperature", [0.1, 1e-3, 1e-4])
def test_large_similarities_in_float32(temperature):
    """exp(1 / temperature) overflows from 1/88 on; also with anchors that coincide with all others."""
    embeddings, labels, weights = make_batch([2, 2], [2, 3, 1])
    with torch.no_grad():
        embeddings[0][0][:] = embeddings[0][0][0]
        embeddings[1][1][:] = -embeddings[0][0]
    exact = mutual_contrastive(embeddings, labels, weights, temperature=temperature)
    single = [[e.detach().float().requires_grad_() for e in peer] for peer in embeddings]
    losses = mutual_contrastive(single, labels, weights.detach().float(), temperature=temperature)
    for ours, expected in zip(losses, exact, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-3)
        leaves = [e for peer in single for e in peer]
        assert all(gradient.isfinite().all() for gradient in gradients(ours, leaves))


def test_training_after_a_first_call_in_inference_mode():
    embeddings, labels, weights = make_batch([3, 1, 3], [2, 2])  # numbers of stages that no other test has used
    with torch.inference_mode():
        mutual_contrastive([[e.detach() for e in peer] for peer in embeddings], labels, weights.detach())
    sum(mutual_contrastive(embeddings, labels, weights)).backward()
    assert weights.grad.abs().sum() > 0
