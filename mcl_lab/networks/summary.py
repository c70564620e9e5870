"""What a network costs: parameters and multi-adds."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in module.parameters())


def multi_adds(module: nn.Module, image_size: int) -> int:
    """Multiply-accumulate operations of convolutions and linear layers for one image of 3 x image_size x image_size."""
    on_paper = copy.deepcopy(module).to("meta").eval()  # shapes only, nothing is computed
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_paper(torch.empty(1, 3, image_size, image_size, device="meta"))
    return counter.get_total_flops() // 2
