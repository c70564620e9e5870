"""All losses and gradients against the numbers of the authors' code, in float64."""

import pytest
import torch
from torch.nn.functional import normalize

from mcl_lab.losses.aggregation import Aggregator
from mcl_lab.losses.classification import Classification
from mcl_lab.losses.contrastive import TERMS, mutual_contrastive
from mcl_lab.losses.distillation import LogitDistillation, distillation
from mcl_lab.losses.mutual_contrastive import MutualContrastiveLearning
from mcl_lab.losses.objective import Objective
from mcl_lab.losses.term import LossInput
from mcl_lab.meta.weight_network import WeightNetwork
from mcl_lab.networks.cohort import CohortOutput

WIDTHS, HEADS = [64, 64], [3, 3]


@pytest.mark.parametrize("term", TERMS)
def test_contrastive_losses_and_gradients(golden, assert_agrees, term):
    def project(embedding, head):
        hidden = torch.relu(embedding @ head["0.weight"].T + head["0.bias"])
        return normalize(hidden @ head["2.weight"].T + head["2.bias"])

    projected = [
        [project(e, golden.sub(f"head.embed_list.{i}.{k}.proj_head.")) for k, e in enumerate(stages)]
        for i, stages in enumerate(golden.embeddings)
    ]
    weights = golden.values["weights"].clone().requires_grad_()
    loss = getattr(mutual_contrastive(projected, golden.labels, weights), term)
    loss.backward()

    assert_agrees(loss.detach(), golden.values[f"loss.{term}"], term)
    assert_agrees(weights.grad, golden.values[f"grad.{term}.weights"], "weights")
    for name, embedding in by_name("emb", golden.embeddings):
        assert_agrees(embedding.grad, golden.values[f"grad.{term}.{name}"], name)


def test_contrastive_learning_weighted_by_the_weight_network(golden, assert_agrees):
    mutual_contrastive_learning, weight_network = contrastive_term(golden), authors_weight_network(golden)
    weights = weight_network(golden.embeddings)
    losses = mutual_contrastive_learning(LossInput(golden.embeddings, None, None, golden.labels, weights))
    for term, weight in {"vcl": 0.1, "soft_vcl": 1.0, "icl": 0.1, "soft_icl": 1.0}.items():
        assert_agrees(losses[term].detach(), weight * golden.values[f"loss.lwn.{term}"], term)
    inner_objective = sum(losses.values())
    inner_objective.backward()
    assert_agrees(inner_objective.detach(), golden.values["loss.inner_objective"], "inner objective")
    for name, value in [*by_name("emb", golden.embeddings), *named("lwn.proj.", weight_network.projections)]:
        assert_agrees(value.grad, golden.values[f"grad.inner_objective.{name}"], name)


def test_ensembles_and_distillation(golden, assert_agrees):
    ensembles = authors_aggregator(golden).combine(golden.embeddings, golden.logits)
    for i, teacher in enumerate(ensembles):
        assert_agrees(teacher.detach(), golden.values[f"agg_logits.{i}"], f"ensemble {i}")
        for j, (*_, student) in enumerate(golden.logits):
            loss = distillation([student], [teacher], temperature=3.0)
            assert_agrees(loss.detach(), golden.values["logit_kd_matrix"][j, i], f"teacher {i}, student {j}")


def test_whole_training_loss(golden, assert_agrees):
    aggregator, weight_network = authors_aggregator(golden), authors_weight_network(golden)
    parts = {
        "classification": Classification(),
        "distillation": LogitDistillation(),
        "contrastive": contrastive_term(golden),
    }
    objective = Objective(parts, aggregator=aggregator, pair_weights=torch.no_grad()(weight_network))
    terms = objective(CohortOutput(golden.embeddings, golden.logits), golden.labels)
    loss = sum(terms.values())
    loss.backward()

    values = golden.values
    assert_agrees(terms["classification"].detach(), values["loss.cls_heads_only"], "classification")
    of_ensembles = values["loss.cls"] - values["loss.cls_heads_only"]
    assert_agrees(terms["ensemble_classification"].detach(), of_ensembles, "classification of ensembles")
    assert_agrees(terms["logit_distillation"].detach(), values["loss.logit_kd"], "distillation")
    contrastive = sum(terms[name] for name in TERMS)
    assert_agrees(contrastive.detach(), values["loss.mcl_main"], "contrastive")
    assert_agrees(loss.detach(), values["loss.step_total"], "loss")
    by_gradient = [*by_name("emb", golden.embeddings), *by_name("logits", golden.logits)]
    for name, value in [*by_gradient, *named("agg.proj_head_", aggregator.attention)]:
        assert_agrees(value.grad, values[f"grad.step_total.{name}"], name)


def contrastive_term(golden):
    """Projection heads of the authors' numbers, under the paper's weights."""
    term = MutualContrastiveLearning(WIDTHS, HEADS, width=64).double()
    heads = {name.replace("proj_head.", ""): value for name, value in golden.sub("head.embed_list.").items()}
    term.projections.load_state_dict(heads)
    return term


def authors_weight_network(golden):
    network = WeightNetwork(WIDTHS, HEADS).double()
    network.projections.load_state_dict(golden.sub("lwn.proj."))
    return network


def authors_aggregator(golden):
    aggregator = Aggregator(WIDTHS, HEADS).double()
    aggregator.attention.load_state_dict(golden.sub("agg.proj_head_"))
    return aggregator


def by_name(kind, leaves):
    return [(f"{kind}.{i}.{k}", leaf) for i, stages in enumerate(leaves) for k, leaf in enumerate(stages)]


def named(prefix, module):
    return [(prefix + name, value) for name, value in module.named_parameters()]
