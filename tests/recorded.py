"""A CUDA graph's stand-in on a CPU: operations are recorded by PyTorch's own dispatch, and done again on the same memory.

As with a CUDA graph, recording changes nothing that was there before, numbers of Python stay what they were, and whatever
needs a value on the host, or brings one from there, is refused.
"""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REFUSED = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::lift_fresh", "aten::unique")


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
        if function._schema.name.startswith(REFUSED):
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        given = tensors((args, kwargs))
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
