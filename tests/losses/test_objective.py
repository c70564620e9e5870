"""Terms: their formulas on heads of unequal number and width, their sum, and what weight 0 means.

N peers, S_i heads of peer i, D_i embedding width, B batch, C classes.
"""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mcl_lab.errors import InputError
from mcl_lab.losses.aggregation import Aggregator
from mcl_lab.losses.classification import Classification, classification
from mcl_lab.losses.contrastive import TERMS
from mcl_lab.losses.distillation import LogitDistillation, distillation
from mcl_lab.losses.mutual_contrastive import MutualContrastiveLearning
from mcl_lab.losses.objective import Objective
from mcl_lab.losses.term import LossInput, Term
from mcl_lab.networks.cohort import CohortOutput

B, C = 6, 4
WIDTHS, HEADS = [5, 3, 8], [2, 3, 1]


def make_output(seed=0):
    """What a cohort of three unequal peers puts out, as leaves, and labels."""
    generator = torch.Generator().manual_seed(seed)

    def leaves(width, count):
        return [torch.rand(B, width, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(count)]

    embeddings = [leaves(width, count) for width, count in zip(WIDTHS, HEADS, strict=True)]
    return CohortOutput(embeddings, [leaves(C, count) for count in HEADS]), torch.arange(B) // 2


def plain_cross_entropy(logits, labels):
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    return sum(math.log(sum(map(math.exp, row))) - row[label] for row, label in rows) / len(labels)


def whole_objective(**weights):
    torch.manual_seed(0)
    terms = {
        "classification": Classification(weights.get("classification", 0.5)),
        "distillation": LogitDistillation(weights.get("distillation", 2.0)),
        "contrastive": MutualContrastiveLearning(WIDTHS, HEADS, width=7, **{t: weights.get(t, 0.3) for t in TERMS}),
    }
    return Objective(terms, aggregator=Aggregator(WIDTHS, HEADS, weights.get("aggregator", 3.0))).double()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), weight=st.floats(0.1, 10))
def test_classification(seed, weight):
    output, labels = make_output(seed)
    expected = sum(plain_cross_entropy(scores, labels) for stages in output.logits for scores in stages)
    assert classification(output.logits, labels).item() == pytest.approx(expected, rel=1e-12)
    batch = LossInput(output.embeddings, output.logits, None, labels, None)
    assert Classification(weight)(batch)["classification"].item() == pytest.approx(weight * expected, rel=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_ensembles_of_unequal_heads(seed):
    output, labels = make_output(seed)
    torch.manual_seed(seed)
    aggregator = Aggregator(WIDTHS, HEADS, weight=0.7).double()
    ensembles = aggregator.combine(output.embeddings, output.logits)
    leaves = [leaf for kind in output for stages in kind for leaf in stages]
    for i, ensemble in enumerate(ensembles):
        first, _, second = aggregator.attention[i]
        hidden = (torch.cat(output.embeddings[i], 1) @ first.weight.T + first.bias).clamp(min=0)
        share = (hidden @ second.weight.T + second.bias).exp()
        share = share / share.sum(1, keepdim=True)
        expected = sum(share[:, k : k + 1] * scores for k, scores in enumerate(output.logits[i]))
        assert hidden.shape == (B, WIDTHS[i])
        torch.testing.assert_close(ensemble, expected, rtol=1e-12, atol=1e-12)
        for ours, theirs in gradient_pairs(ensemble.square().sum(), expected.square().sum(), leaves):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)  # nothing is detached
    loss = aggregator(LossInput(output.embeddings, output.logits, ensembles, labels, None))["ensemble_classification"]
    expected = 0.7 * sum(plain_cross_entropy(ensemble, labels) for ensemble in ensembles)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), temperature=st.floats(0.5, 10), weight=st.floats(0.1, 10))
def test_distillation(seed, temperature, weight):
    output, labels = make_output(seed)
    ensembles = [sum(stages) for stages in output.logits]
    batch = LossInput(output.embeddings, output.logits, ensembles, labels, None)
    loss = LogitDistillation(weight, temperature)(batch)["logit_distillation"]
    expected = 0
    for teacher in ensembles:
        for *_, student in output.logits:
            g = torch.softmax(teacher.detach() / temperature, dim=1)
            s = torch.softmax(student / temperature, dim=1)
            expected = expected + weight * temperature**2 * (g * torch.log(g / s)).sum() / B
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    leaves = [scores for stages in output.logits for scores in stages]
    for (ours, theirs), scores in zip(gradient_pairs(loss, expected, leaves), leaves, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        is_own_head = any(scores is stages[-1] for stages in output.logits)
        assert (ours != 0).any() == is_own_head  # the teachers, sums of all heads, are held fixed


class PutsOut(nn.Module):
    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def forward(self, batch):
        return self.losses


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (torch.tensor(1.0), "a dict of scalar tensors, not a Tensor"),
        ({"mine": 0.0}, "mine, which must be a scalar tensor and is a float"),
        ({"mine": torch.ones(B)}, "mine, which must be a scalar tensor and is of shape (6,)"),
    ],
)
def test_what_is_no_term_is_refused(losses, words):
    with pytest.raises(InputError) as error:
        Objective({"own": PutsOut(losses)})(*make_output())
    assert error.value.key == "loss.own" and words in str(error.value)


def test_distillation_of_itself_is_nothing():
    (_, logits), _ = make_output()
    assert distillation([logits[0][-1]], [logits[0][-1]], temperature=3.0).item() == pytest.approx(0, abs=1e-15)


def test_objective_has_the_terms_of_all_its_parts():
    output, labels = make_output()
    objective = whole_objective()
    terms = objective(output, labels)
    assert set(terms) == {"ensemble_classification", "classification", "logit_distillation", *TERMS}
    assert all(term.shape == () for term in terms.values())

    ensembles = objective.ensembles(output)
    batch = LossInput(output.embeddings, output.logits, ensembles, labels, None)
    alone = [part(batch) for part in (objective.aggregator, *objective.terms.values())]
    expected = sum(value for part in alone for value in part.values())
    torch.testing.assert_close(sum(terms.values()), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("weight", "term"),
    [
        ("classification", "classification"),
        ("distillation", "logit_distillation"),
        ("aggregator", "ensemble_classification"),
        *((term, term) for term in TERMS),
    ],
)
def test_weight_scales_its_term_alone_and_zero_removes_it(weight, term):
    output, labels = make_output()
    once, twice, without = (whole_objective(**{weight: value})(output, labels) for value in (1.0, 2.0, 0.0))
    assert set(once) - set(without) == {term}
    for name, value in without.items():
        assert value == once[name] == twice[name]
    torch.testing.assert_close(twice[term], 2 * once[term], rtol=1e-12, atol=0)


def test_terms_of_weight_zero_look_at_nothing():
    nothing = LossInput(None, None, None, None, None)
    contrastive = MutualContrastiveLearning(WIDTHS, HEADS, vcl=0, soft_vcl=0, icl=0, soft_icl=0)
    for term in (Classification(0), LogitDistillation(0), Aggregator(WIDTHS, HEADS, 0), contrastive):
        assert term(nothing) == {}


class Mean(Term):
    """As somebody may write one."""

    name = "mean"

    def loss(self, batch):
        return batch.logits[0][0].mean()


@pytest.mark.parametrize("weight", [0, 0.0, 0.5])
def test_a_term_of_ones_own_needs_a_name_and_a_loss(weight):
    output, labels = make_output()
    terms = Objective({"own": Mean(weight)})(output, labels)
    expected = {"mean": weight * output.logits[0][0].mean()} if weight else {}
    assert terms == expected


def test_terms_are_weighted_by_what_pair_weights_says():
    output, labels = make_output()
    pairs = sum(HEADS) ** 2 - sum(count**2 for count in HEADS)
    weights = torch.rand(pairs, B, dtype=torch.float64)
    contrastive = MutualContrastiveLearning(WIDTHS, HEADS).double()
    objective = Objective({"contrastive": contrastive}, pair_weights=lambda embeddings: weights)
    assert objective(output, labels) == contrastive(LossInput(*output, None, labels, weights))
    unweighted = Objective({"contrastive": contrastive})(output, labels)
    ones = contrastive(LossInput(*output, None, labels, torch.ones_like(weights)))
    assert all(value.item() == pytest.approx(ones[name].item(), rel=1e-12) for name, value in unweighted.items())


def test_without_aggregator_there_are_no_ensembles():
    output, labels = make_output()
    objective = Objective({"classification": Classification()})
    assert objective.ensembles(output) is None
    assert set(objective(output, labels)) == {"classification"}


def test_two_terms_of_one_name_are_refused():
    output, labels = make_output()
    terms = {"first": Classification(1.0), "second": Classification(2.0)}
    with pytest.raises(InputError) as error:
        Objective(terms)(output, labels)
    assert error.value.key == "loss.second"


def test_objective_owns_its_parts_but_not_the_weight_network():
    weight_network = nn.Linear(2, 2)
    aggregator, contrastive = Aggregator(WIDTHS, HEADS), MutualContrastiveLearning(WIDTHS, HEADS)
    terms = {"contrastive": contrastive}
    objective = Objective(
        terms, aggregator=aggregator, pair_weights=lambda embeddings: weight_network(embeddings[0][0])
    )
    assert set(objective.parameters()) == {*aggregator.parameters(), *contrastive.parameters()}


@pytest.mark.parametrize("name", ["classification", "ensemble_classification", "logit_distillation", *TERMS])
def test_each_term_falls_under_gradient_descent(name):
    """On its own, in every step, by embeddings, logits and its own parameters."""
    output, labels = make_output()
    objective = whole_objective()
    leaves = [leaf for kind in output for stages in kind for leaf in stages]
    optimizer = torch.optim.SGD([*leaves, *objective.parameters()], lr=1e-3)
    history = []
    for _ in range(20):
        loss = objective(output, labels)[name]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert all(later < earlier for earlier, later in pairwise(history))


def gradient_pairs(ours, expected, leaves):
    return zip(
        torch.autograd.grad(ours, leaves, materialize_grads=True),
        torch.autograd.grad(expected, leaves, materialize_grads=True),
        strict=True,
    )
