"""Work that is launched as one CUDA graph: on a GPU small networks wait for Python to launch their operations one by one."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mcl_lab.training.randomness import random_states_beside

LOGGER = logging.getLogger(__name__)
WARM_UP = 3  # calls as written: libraries choose their algorithms and allocate what they keep


class CudaRecorder:
    """Records what is launched on a CUDA device."""

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A stream of its own, as PyTorch asks for: the default stream cannot be recorded. Waits for no device."""
        outside = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            outside.wait_stream(self.stream)

    def record(self, function: Callable, inputs: list[Tensor]) -> tuple[Callable[[], None], Any]:
        """(what launches the operations of `function(*inputs)`, what they put out); none is done before it is called."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            outputs = function(*inputs)
        return graph.replay, outputs


class Graphed:
    """A function whose operations are recorded after a few calls, once for each shape of its inputs, and from then on launched
    all at once, with the same results.

    function: of tensors and numbers (which reach it as tensors, too) to tensors in any nesting. Apart from its inputs every
        call does the same to the same tensors: no number or mode that Python keeps changes what it does. One that waits for the
        device, or draws random numbers elsewhere, is from then on called as it is, and a warning says why. What a call puts out
        is overwritten by the next.
    """

    recorder = CudaRecorder

    def __init__(self, function: Callable, device: torch.device):
        self.function, self.device = function, device
        self._recorder = self.recorder(device)
        self._calls: dict[tuple, int] = {}
        self._recorded: dict[tuple, tuple[list[Tensor], Callable[[], None], Any]] = {}
        self._refused = False  # once for all shapes: what a failed recording leaves behind is not to be built upon

    def __call__(self, *inputs: Tensor | float) -> Any:
        if self._refused:
            return self.function(*inputs)
        with self._recorder.aside():
            tensors = [self._tensor(value) for value in inputs]
            shapes = tuple((value.shape, value.dtype) for value in tensors)
            self._calls[shapes] = self._calls.get(shapes, 0) + 1
            if self._calls[shapes] > WARM_UP and shapes not in self._recorded:
                self._record(shapes, tensors)
            if shapes not in self._recorded:
                return self.function(*tensors)
            held, replay, outputs = self._recorded[shapes]
            for place, value in zip(held, tensors, strict=True):
                place.copy_(value)
            replay()
            return outputs

    def _tensor(self, value: Tensor | float) -> Tensor:
        return value if isinstance(value, Tensor) else torch.full((), value, device=self.device)

    def _record(self, shapes: tuple, inputs: list[Tensor]) -> None:
        held, first = [value.clone() for value in inputs], []

        def function(*inputs: Tensor):
            before = random_states_beside(self.device)
            try:
                outputs = self.function(*inputs)
                if random_states_beside(self.device) != before:
                    raise RuntimeError("it draws random numbers of Python, NumPy or the CPU")
                return outputs
            except RuntimeError as error:
                first.append(error)  # ending a recording that has failed fails as well
                raise

        try:
            self._recorded[shapes] = held, *self._recorder.record(function, held)
        except RuntimeError as error:
            reason = str(first[0] if first else error)
            LOGGER.warning("not launched as a CUDA graph: %s", next(iter(reason.splitlines()), "no reason given"))
            self._refused = True
