"""A few training steps and a meta event in float64, as numbers by name: `traces.json` holds what they were.

Made again, for a change that is meant to change numbers, from the project's folder:

    PYTHONPATH=. python tests/stored/traces.py > tests/stored/traces.json

Steps start from values that are drawn here in float64, as those that a run draws in float32 are rounded differently by
different processors; of these there is a figure for each part, `drawn`, that needs no more than a few digits.
"""

import json
import math
import sys

import torch
from torch import nn

from mcl_lab.assembly.learners import build_learners
from mcl_lab.assembly.method import build_method
from mcl_lab.config.check import check
from mcl_lab.config.compose import compose
from mcl_lab.training.randomness import seed_everything

NUM_CLASSES = 5
SMALL = ["loss.mutual_contrastive.width=8", "loss.weight_network.width=8"]
GENTLE = "optimizer.lr=0.01"  # or rounding is amplified, and terms vanish
RESNETS = [f"pair.peers.{peer}.widths=[4,6,8]" for peer in "ab"]
THIRD = ["+network@pair.peers.c=resnet20", "pair.peers.c.blocks=[1,2]", "pair.peers.c.widths=[4,6]"]


def of_both(*settings: str) -> list[str]:
    return [f"pair.peers.{peer}.{setting}" for peer in "ab" for setting in settings]


CASES = {
    "baseline": ["pair=resnet8", *RESNETS, "loss=baseline"],
    "dml": ["pair=resnet8", *RESNETS, "loss=dml"],
    "kdcl": ["pair=resnet8", *RESNETS, "loss=kdcl"],
    "mcl": ["pair=resnet8", *RESNETS, "loss=mcl", "loss.ensemble_distillation.weight=1", SMALL[0]],
    "lmcl_uniform": ["pair=resnet8", *RESNETS, "loss=lmcl_uniform", SMALL[0]],
    "lmcl": ["pair=resnet8", *RESNETS, *SMALL],
    "adamw_multistep": ["pair=resnet8", *RESNETS, *SMALL, "optimizer=adamw", "schedule=multistep"],
    "bottleneck": ["pair=resnet8", *of_both("block=bottleneck", "widths=[2,3,4]"), *SMALL],
    "wide_resnet": ["pair=wrn_16_2", *of_both("depth=10", "widen_factor=1"), *SMALL],
    "shufflenet_v2": ["pair=shufflenetv2_05x", *of_both("blocks=[1,1,1]", "widths=[4,8,6]", "last_width=10"), *SMALL],
    "hcgnet": ["pair=hcgnet_a1", *of_both("units=[2,1]", "growth=[4,8]"), *SMALL],
    "torchvision": [
        "pair=resnet8", "network@pair.peers.b=torchvision_resnet18", "pair.peers.a.widths=[4,6,8]",
        "pair.peers.b.stages=[[layer1],[layer2]]", *SMALL,
    ],
    "heterogeneous": [
        "pair=resnet8", "network@pair.peers.b=wrn_16_2", "pair.peers.a.widths=[4,6,8]", "pair.peers.b.depth=10",
        "pair.peers.b.widen_factor=1", *THIRD, *SMALL,
    ],
}  # fmt: skip


def trace(settings: list[str]) -> dict[str, float]:
    """Two steps, a meta event if the loss has one, an epoch's end, and a third step."""
    config = compose([*settings, GENTLE])
    check(config)
    seed_everything(config.seed)
    learners = build_learners(config, NUM_CLASSES, torch.device("cpu"), (8, 8))
    parts = {"cohort": learners.cohort, "objective": learners.objective}
    if learners.weight_network is not None:
        parts["weight_network"] = learners.weight_network
    numbers = {f"drawn, {name}": _by_place(part) for name, part in parts.items()}
    generator = torch.Generator().manual_seed(0)
    for part in parts.values():
        _start(part.double(), generator)
    method = build_method(config, learners)

    def measure(when: str) -> None:
        for name, part in parts.items():
            numbers[f"{when}, {name}"] = _norm(part.parameters())
            if buffers := [buffer.double() for buffer in part.buffers()]:
                numbers[f"{when}, buffers of {name}"] = _norm(buffers)

    def train(when: str) -> None:
        images, labels = _batch(generator)
        terms, own_logits = method.step(images, labels)
        numbers.update({f"{when}, {name}": term.item() for name, term in terms.items()})
        numbers[f"{when}, own logits"] = _norm(own_logits)

    train("step 1")
    train("step 2")
    measure("after step 2")
    if method.event_due(0):
        gradients = method.hypergradient(*_batch(generator))
        numbers["hypergradient"] = _norm(gradients)
        method.apply(gradients)
        measure("after the meta event")
    method.end_epoch()
    numbers["learning rate"] = method.learning_rate
    train("step 3")
    measure("after step 3")
    return numbers


def _batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, in the layout that a run's images have, and labels in pairs."""
    images = 2 * torch.rand(8, 3, 8, 8, generator=generator, dtype=torch.float64) - 1
    return images.contiguous(memory_format=torch.channels_last), torch.arange(8) // 2


def _start(part: nn.Module, generator: torch.Generator) -> None:
    """Give each parameter values by its name's place in the alphabet; in place, so that the layout stays. No BatchNorm
    divides by a variance next to nothing, which would amplify rounding."""
    for module in part.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = 1.0
    for name, value in sorted(part.named_parameters()):
        drawn = 2 * torch.rand(value.shape, generator=generator, dtype=torch.float64) - 1
        if value.dim() > 1:
            drawn *= math.sqrt(6 * len(value) / value.numel())  # fit for ReLU
        else:
            drawn = 0.1 * drawn + name.endswith("weight")  # of BatchNorm
        with torch.no_grad():
            value.copy_(drawn)


def _norm(tensors) -> float:
    return math.sqrt(sum(tensor.square().sum().item() for tensor in tensors))


def _by_place(part: nn.Module) -> float:
    """The sum of squares of a part's values, each times its place: another order gives another one."""
    parameters = [value.detach().double().flatten() for _, value in sorted(part.named_parameters())]
    values = torch.cat([*parameters, torch.zeros(1)])  # a part may have none
    return (values.square() * torch.arange(1, len(values) + 1) / len(values)).sum().item()


if __name__ == "__main__":
    json.dump({name: trace(settings) for name, settings in CASES.items()}, sys.stdout, indent=1)
    print()
