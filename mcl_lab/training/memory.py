"""The memory of this process: what is kept of it, and how much of it was used at most."""

import ctypes
from contextlib import suppress
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # the names of glibc's settings in malloc.h


def keep_freed_memory() -> None:
    """Let what tensors free be used again by this process instead of going back to the system.

    A step, and a meta event still more, frees about a gigabyte at its end and asks for it again at once; the system would have
    to clear all its pages. No other C library than glibc has the setting, or needs it.
    """
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_MMAP_THRESHOLD, 2**30)


class PeakMemory:
    """How much memory was in use at most since this was made, in bytes: on CUDA that of tensors, on a CPU the process's.

    None where the system does not tell.
    """

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not in use
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (man 5 proc)

    def read(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        with suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        return None
