"""A CUDA graph's stand-in on a CPU: operations are recorded by PyTorch's own dispatch, and done again on the same memory.

As with a CUDA graph, recording changes nothing that was there before, numbers of Python stay what they were, and operations
that need values on the host, or bring some from there, are refused. What only a device has is not seen: its kernels, streams
and memory that is used again.
"""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REFUSED = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "lift_fresh",
    "unique",
    "_unique",
    "repeat_interleave",
    "equal",
)
REFUSED = tuple(f"aten::{name}" for name in (*REFUSED, "bincount"))


class CpuRecorder:
    """Takes the place of mcl_lab.training.graphs.CudaRecorder."""

    def __init__(self, device: torch.device):
        self.aside = nullcontext

    def record(self, function, inputs):
        with torch.random.fork_rng(devices=[]), Operations() as operations:
            outputs = function(*inputs)
        operations.undo()
        return operations.replay, outputs


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.done = []
        self.before = {}  # address of memory that was there before: it, and what it held
        self.made = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name, given = function._schema.name, tensors((args, kwargs))
        by_mask = name.startswith("aten::index") and any(value.dtype == torch.bool for value in tensors(args[1]))
        if name.startswith(REFUSED) or by_mask:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        for value in given:
            if memory(value) not in self.before and memory(value) not in self.made:
                self.before[memory(value)] = value.untyped_storage(), value.untyped_storage().clone()
        result = function(*args, **kwargs)
        mine = {memory(value) for value in given}
        new = [value for value in tensors(result) if memory(value) not in mine]
        self.made |= {memory(value) for value in new}
        self.done.append((function, args, kwargs, result, new))
        return result

    def undo(self):
        for storage, held in self.before.values():
            storage.copy_(held)

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, result, new in self.done:
                again = function(*args, **kwargs)
                for place, value in zip(tensors(result), tensors(again), strict=True):
                    if any(place is one for one in new):
                        place.copy_(value)


def tensors(tree) -> list[Tensor]:
    """Those that have memory; the zeros of forward mode have none."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not leaf._is_zerotensor()]


def memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
