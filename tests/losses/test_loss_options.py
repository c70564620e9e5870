"""Every option of conf/loss, as a run builds it, on cohorts of every size."""

import pytest
import torch
from torch import nn

from mcl_lab.assembly.learners import build_learners
from mcl_lab.config.check import check
from mcl_lab.config.compose import compose
from mcl_lab.errors import InputError
from mcl_lab.runs.provenance import HOUSE

LOSSES = sorted(path.stem for path in (HOUSE / "conf/loss").glob("*.yaml"))
CONTRASTIVE = {"vcl", "soft_vcl", "icl", "soft_icl"}
LAYER_WISE = {"classification", "ensemble_classification", "logit_distillation", *CONTRASTIVE}
TERMS = {
    "baseline": {"classification"},
    "dml": {"classification", "mutual_learning"},
    "kdcl": {"classification", "ensemble_distillation"},
    "mcl": {"classification", *CONTRASTIVE},
    "lmcl": LAYER_WISE,
    "lmcl_uniform": LAYER_WISE,
}
COHORTS = {  # of unequal widths, and the larger ones of unequal depth and number of stages
    2: ["pair.peers.b.widths=[6,6,6]"],
    3: ["+network@pair.peers.c=resnet20", "pair.peers.c.widths=[4,4]", "pair.peers.c.blocks=[1,2]"],
    4: ["+network@pair.peers.c=resnet20", "pair.peers.c.widths=[4,4]", "pair.peers.c.blocks=[1,2]",
        "+network@pair.peers.d=resnet8", "pair.peers.d.widths=[4,4,4]"],
}  # fmt: skip


def learners(loss, peers, *changes, trained=False):
    small = [f"pair.peers.{peer}.widths=[4,4,4]" for peer in "ab"]
    config = compose(["pair=resnet8", f"loss={loss}", *small, *COHORTS[peers], *changes])
    check(config)
    torch.manual_seed(0)
    built = build_learners(config, 4, torch.device("cpu"), trained=trained)
    for module in (built.cohort, built.objective, built.weight_network):
        if module is not None:
            module.double()
    return built


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64), torch.arange(8) // 2


def test_without_contrastive_terms_there_is_nothing_to_weigh():
    built = learners("lmcl", 2, *(f"loss.mutual_contrastive.{term}=0" for term in sorted(CONTRASTIVE)))
    assert built.weight_network is None and built.virtual_losses is None


class Remembers(nn.Module):
    """A term that keeps what it has seen, and asks for whole batches."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, batch):
        assert len(batch.labels) == 128
        self.seen += len(batch.labels)
        return {"remembered": batch.logits[0][0].mean()}


def test_building_leaves_no_trace_in_a_term_that_remembers(monkeypatch):
    monkeypatch.setenv("MCL_LAB_PLUGINS", __name__)
    built = learners("baseline", 2, f"+loss.memory._target_={__name__}.Remembers")
    assert built.objective.terms["memory"].seen == 0


class Named(nn.Module):
    """A term that calls its loss as it is told."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, batch):
        return {self.name: batch.logits[0][0].mean()}


UNTRACKED = ["a//b", "x/", "/x", "", "a&b", "a(b)", "a:b", "a/../b", ".", "x" * 241]
TAKEN = ["loss", "learning_rate", "seconds", "images_per_second", "evaluation_seconds", "a/own_head"]


@pytest.mark.parametrize("name", [*UNTRACKED, *TAKEN])
def test_what_a_term_may_not_call_its_loss(name, monkeypatch):
    monkeypatch.setenv("MCL_LAB_PLUGINS", __name__)
    with pytest.raises(InputError, match="rename it" if name in TAKEN else "cannot be tracked") as caught:
        learners("baseline", 2, f"+loss.mine={{_target_: {__name__}.Named, name: '{name}'}}")
    assert caught.value.key == "loss" and repr(name) in str(caught.value)


def test_a_run_that_was_trained_before_may_have_called_it_so(monkeypatch):
    monkeypatch.setenv("MCL_LAB_PLUGINS", __name__)
    learners("baseline", 2, f"+loss.mine={{_target_: {__name__}.Named, name: a//b}}", trained=True)


@pytest.mark.parametrize("name", ["a/b", "own head", "x-1.5", "Verlust_ü", "x" * 240])
def test_what_a_term_may_call_its_loss(name, monkeypatch):
    monkeypatch.setenv("MCL_LAB_PLUGINS", __name__)
    learners("baseline", 2, f"+loss.mine={{_target_: {__name__}.Named, name: '{name}'}}")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("peers", COHORTS)
def test_falls_under_sgd(loss, peers):
    parts, (images, labels) = learners(loss, peers), batch()
    trained = [*parts.cohort.parameters(), *parts.objective.parameters()]
    optimizer = torch.optim.SGD(trained, lr=0.02)
    history = []
    for _ in range(8):
        terms = parts.objective(parts.cohort(images), labels)
        assert set(terms) == TERMS[loss]
        history.append(sum(terms.values()).item())
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert history[-1] < 0.95 * history[0]
    assert all(parameter.grad is not None for parameter in trained)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_peer(loss):
    """Only a baseline can do without another."""
    config = compose(["pair=single/resnet8", f"loss={loss}"])
    if loss == "baseline":
        return check(config)
    with pytest.raises(InputError, match=f"loss={loss} needs 2 peers or more") as error:
        check(config)
    assert error.value.key == "pair"


def test_uniform_is_lmcl_with_every_pair_weighing_one():
    uniform, trained = learners("lmcl_uniform", 3), learners("lmcl", 3)
    assert uniform.weight_network is None and trained.weight_network is not None
    for name in ("cohort", "objective"):
        getattr(uniform, name).load_state_dict(getattr(trained, name).state_dict())
    trained.objective.pair_weights = lambda embeddings: torch.ones_like(trained.weight_network(embeddings))
    images, labels = batch()
    ours, theirs = (parts.objective(parts.cohort(images), labels) for parts in (uniform, trained))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)


def test_mcl_with_logit_distillation():
    parts, (images, labels) = learners("mcl", 2, "loss.ensemble_distillation.weight=1"), batch()
    output = parts.cohort(images)
    terms = parts.objective(output, labels)
    assert set(terms) == TERMS["mcl"] | {"ensemble_distillation"}
    a, b = (nn.functional.log_softmax(logits[-1] / 3, dim=1) for logits in output.logits)
    mean = nn.functional.log_softmax(sum(logits[-1] for logits in output.logits) / 2 / 3, dim=1)
    expected = sum(9 * (mean.exp() * (mean - student)).sum(1).mean() for student in (a, b))
    torch.testing.assert_close(terms["ensemble_distillation"], expected)


@pytest.mark.parametrize("ensemble", ["minlogit", "naive", "mean"])
def test_ensembles_of_kdcl(ensemble):
    parts, (images, labels) = learners("kdcl", 3, f"loss.ensemble_distillation.ensemble={ensemble}"), batch()
    assert parts.objective(parts.cohort(images), labels)["ensemble_distillation"] > 0


def test_an_unknown_ensemble_is_refused():
    with pytest.raises(InputError, match="minlogit, naive") as error:
        learners("kdcl", 2, "loss.ensemble_distillation.ensemble=linear")
    assert error.value.key == "loss.ensemble_distillation.ensemble"
