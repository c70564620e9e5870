"""What networks cost on paper, and computations on this very device: parameters, arithmetic, operations, time."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

NO_LAUNCH = ("aten::empty", "aten::new_empty", "aten::detach", "aten::_unsafe_view", "aten::set_")
RATE_SECONDS = 0.3  # for which a rate is measured, at least
LONG = 0.05  # seconds, of one piece of work whose rate is measured


class Stopwatch:
    """Times what goes on between marks, on CUDA by the device's own clock, so that nothing has to wait for it meanwhile."""

    def __init__(self, device: torch.device):
        self.on_cuda = device.type == "cuda"
        self.names: list[str] = []
        self.times: list[float] = []
        self.events: list[torch.cuda.Event] = []
        self.mark("")

    def mark(self, name: str) -> None:
        """What went on since the last mark was `name`."""
        self.names.append(name)
        if self.on_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.events.append(event)
        else:
            self.times.append(time.perf_counter())

    def seconds(self) -> dict[str, float]:
        """Of each name; waits for the device."""
        if self.on_cuda:
            torch.cuda.synchronize()
            parts = [before.elapsed_time(now) / 1000 for before, now in pairwise(self.events)]
        else:
            parts = [now - before for before, now in pairwise(self.times)]
        return dict(zip(self.names[1:], parts, strict=True))


@dataclass(frozen=True)
class Operations:
    """count: of operations; bytes: of the tensors that they read and write."""

    count: int
    bytes: int


def count_operations(work: Callable[[], object]) -> Operations:
    """PyTorch's operations on tensors that `work` comes down to, backward included; those that only look at a tensor in
    another way, or make an empty one, launch nothing and are not counted."""
    with _Counter() as counter:
        work()
    return Operations(counter.count, counter.bytes)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if not (function.is_view or function._schema.name.startswith(NO_LAUNCH)):
            self.count += 1
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.bytes += sum(x.nbytes for x in tensors)
        return result


def parameters(module: nn.Module) -> int:
    """Number of values, frozen ones too; a shared parameter's are counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def frozen_parameters(module: nn.Module) -> int:
    """Number of values that do not require gradient."""
    return sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad)


def multi_adds(module: nn.Module, image_size: int) -> int:
    """`count_multi_adds` of a network for one image of 3 x image_size x image_size."""
    on_paper = copy.deepcopy(module).to("meta").eval()  # shapes only, nothing is computed
    with torch.no_grad():
        return count_multi_adds(lambda: on_paper(torch.empty(1, 3, image_size, image_size, device="meta")))


def count_multi_adds(work: Callable[[], object]) -> int:
    """Multiply-accumulate operations of convolutions and matrix products in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() // 2


def multi_adds_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-accumulate operations a second of a large matrix product.

    There are two libraries for it, one behind matrix products and one behind convolutions, which may compute in TF32: that of
    the faster one. Products grow only until one takes a while: a processor without instructions for bfloat16 takes a minute
    for what others do in a tenth of a second.
    """

    def product(size: int) -> Callable[[], Tensor]:
        a = torch.randn(size, size, device=device, dtype=dtype)
        return lambda: a @ a

    def convolution(size: int) -> Callable[[], Tensor]:
        images = torch.randn(64, size // 4, 8, 8, device=device, dtype=dtype)  # 4096 rows of size / 4
        images = images.to(memory_format=torch.channels_last)
        filters = torch.randn(size // 4, size // 4, 1, 1, device=device, dtype=dtype)
        return lambda: torch.conv2d(images, filters)

    largest = 8192 if device.type == "cuda" else 2048
    work = [_large_enough(make, largest, device) for make in (product, convolution)]
    return max(count_multi_adds(one) / _seconds(one, device) for one in work)


def copy_rate(device: torch.device) -> float:
    """Bytes a second, read and written, of the copy of a large tensor."""
    source = torch.zeros(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source), device)


def _large_enough(
    make: Callable[[int], Callable[[], Tensor]], largest: int, device: torch.device
) -> Callable[[], Tensor]:
    """The work of the largest size, or of the first that takes long."""
    size = 256
    while True:
        work = make(size)
        work()
        if size == largest or _timed(work, device) > LONG:
            return work
        size *= 2


def _seconds(work: Callable[[], Tensor], device: torch.device) -> float:
    work()
    times: list[float] = []
    until = time.monotonic() + RATE_SECONDS
    while time.monotonic() < until or len(times) < 5:
        times.append(_timed(work, device))
    return median(times)


def _timed(work: Callable[[], Tensor], device: torch.device) -> float:
    watch = Stopwatch(device)
    work()
    watch.mark("work")
    return watch.seconds()["work"]
