"""Distillation of logits (Hinton et al., 2015)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from mcl_lab.losses.term import LossInput


class LogitDistillation(nn.Module):
    """Every peer's ensemble teaches every peer's own head, its own peer's included: sum_ij of `distillation`."""

    requires = ("aggregator",)  # nodes of the loss that must be there as well

    def __init__(self, weight: Annotated[float, ">= 0"] = 1.0, temperature: Annotated[float, "> 0"] = 3.0):
        super().__init__()
        self.weight = weight
        self.temperature = temperature

    def forward(self, batch: LossInput) -> dict[str, Tensor]:
        if self.weight == 0:
            return {}
        students = [stages[-1] for stages in batch.logits]
        return {"logit_distillation": self.weight * distillation(students, batch.ensembles, self.temperature)}


def distillation(students: Sequence[Tensor], teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """sum over students l and teachers g of T^2 KL(softmax(stopgrad(g) / T) || softmax(l / T)), mean over the batch.

    students, teachers: logits (B, C) each. Returns a scalar.
    """
    log_students = [torch.log_softmax(student / temperature, dim=1) for student in students]
    log_teachers = [torch.log_softmax(teacher.detach() / temperature, dim=1) for teacher in teachers]
    divergence = sum(
        kl_div(student, teacher, reduction="batchmean", log_target=True)
        for student in log_students
        for teacher in log_teachers
    )
    return temperature**2 * divergence
