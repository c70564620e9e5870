"""Distillation of logits (Hinton et al., 2015): who teaches whom in a cohort.

N peers, B batch, C classes.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from mcl_lab.losses.term import LossInput, Term, total

OFFERED = {"loss.*": ["LogitDistillation", "MutualLearning", "EnsembleDistillation"]}  # to configs, by place


class LogitDistillation(Term):
    """Every peer's ensemble teaches every peer's own head, its own peer's included: sum_ij of `distillation`."""

    name = "logit_distillation"
    requires = ("aggregator",)  # nodes of the loss that must be there as well

    def __init__(self, weight: Annotated[float, ">= 0"] = 1.0, temperature: Annotated[float, "> 0"] = 3.0):
        super().__init__(weight)
        self.temperature = temperature

    def loss(self, batch: LossInput) -> Tensor:
        assert batch.ensembles is not None, "the aggregator makes them"
        return distillation(_own(batch), batch.ensembles, self.temperature)


class MutualLearning(Term):
    """Every peer's own head learns from those of the others (deep mutual learning, CVPR 2018):

    sum_i 1/(N-1) sum_{j != i} T^2 KL(softmax(stopgrad(l_j) / T) || softmax(l_i / T)), mean over the batch. T = 1 there.

    The paper updates one network after the other, by predictions computed anew; here all are updated at once, by the
    same predictions.
    """

    name = "mutual_learning"
    min_peers = 2

    def __init__(self, weight: Annotated[float, ">= 0"] = 1.0, temperature: Annotated[float, "> 0"] = 1.0):
        super().__init__(weight)
        self.temperature = temperature

    def loss(self, batch: LossInput) -> Tensor:
        own = _own(batch)
        return total(
            distillation([student], own[:i] + own[i + 1 :], self.temperature) / (len(own) - 1)
            for i, student in enumerate(own)
        )


class EnsembleDistillation(Term):
    """One ensemble of all peers' own heads teaches each of them: sum_i of `distillation`.

    ensemble: `minlogit` and `naive` are KDCL's (CVPR 2020), `mean` is MCL's (AAAI 2022); the functions are below.

    KDCL's `linear`, for each image the convex combination with the least cross-entropy, has no closed form: it would need
    an iterative solver in every step. KDCL also distorts the images for each network anew; here all peers see the same.
    """

    name = "ensemble_distillation"
    min_peers = 2

    def __init__(
        self,
        weight: Annotated[float, ">= 0"] = 1.0,
        temperature: Annotated[float, "> 0"] = 2.0,
        ensemble: Literal["minlogit", "naive", "mean"] = "minlogit",
    ):
        super().__init__(weight)
        self.temperature = temperature
        self.ensemble = ENSEMBLES[ensemble]

    def loss(self, batch: LossInput) -> Tensor:
        own = _own(batch)
        return distillation(own, [self.ensemble(torch.stack(own), batch.labels)], self.temperature)


def min_logit(logits_NBC: Tensor, labels: Tensor) -> Tensor:
    """The elementwise minimum over the peers of logits from which those of the labels were subtracted, (B, C)."""
    return (logits_NBC - logits_NBC.take_along_dim(labels[None, :, None], dim=2)).amin(dim=0)


def best_peer(logits_NBC: Tensor, labels: Tensor) -> Tensor:
    """For each image the logits of the peer with the lowest cross-entropy, (B, C)."""
    losses_NB = torch.stack([cross_entropy(logits_BC, labels, reduction="none") for logits_BC in logits_NBC])
    return logits_NBC.take_along_dim(losses_NB.argmin(dim=0)[None, :, None], dim=0)[0]


def mean_logit(logits_NBC: Tensor, labels: Tensor) -> Tensor:
    """The mean over the peers, (B, C)."""
    return logits_NBC.mean(dim=0)


ENSEMBLES = {"minlogit": min_logit, "naive": best_peer, "mean": mean_logit}


def distillation(students: Sequence[Tensor], teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """sum over students l and teachers g of T^2 KL(softmax(stopgrad(g) / T) || softmax(l / T)), mean over the batch.

    students, teachers: logits (B, C) each. Returns a scalar.
    """
    log_students = [torch.log_softmax(student / temperature, dim=1) for student in students]
    log_teachers = [torch.log_softmax(teacher.detach() / temperature, dim=1) for teacher in teachers]
    divergence = total(
        kl_div(student, teacher, reduction="batchmean", log_target=True)
        for student in log_students
        for teacher in log_teachers
    )
    return temperature**2 * divergence


def _own(batch: LossInput) -> list[Tensor]:
    """The logits (B, C) of each peer's own head."""
    return [stages[-1] for stages in batch.logits]
