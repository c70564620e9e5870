"""Learning-rate schedules, set once an epoch, each with an optional linear warm-up."""

import math
from collections.abc import Sequence
from typing import Annotated

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

OFFERED = {"schedule": ["Cosine", "MultiStep"]}  # to configs, by place


class Cosine(LambdaLR):
    """lr/2 (1 + cos(pi t / T)) over the T epochs after the warm-up (SGDR, Loshchilov and Hutter, 2017, without restarts)."""

    def __init__(self, optimizer: Optimizer, epochs: Annotated[int, ">= 1"], warmup_epochs: Annotated[int, ">= 0"] = 0):
        def factor(epoch: int) -> float:
            if epoch < warmup_epochs:
                return _warmup(epoch, warmup_epochs)
            return (1 + math.cos(math.pi * (epoch - warmup_epochs) / max(1, epochs - warmup_epochs))) / 2

        super().__init__(optimizer, factor)


class MultiStep(LambdaLR):
    """lr times `gamma` for each milestone (an epoch) that is reached."""

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[Annotated[int, ">= 1"]],
        gamma: Annotated[float, "> 0"] = 0.1,
        warmup_epochs: Annotated[int, ">= 0"] = 0,
    ):
        def factor(epoch: int) -> float:
            if epoch < warmup_epochs:
                return _warmup(epoch, warmup_epochs)
            return gamma ** sum(epoch >= milestone for milestone in milestones)

        super().__init__(optimizer, factor)


def _warmup(epoch: int, warmup_epochs: int) -> float:
    return (epoch + 1) / (warmup_epochs + 1)
