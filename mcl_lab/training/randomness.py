"""Random states: of Python, NumPy, PyTorch and the CUDA device in use, as values a checkpoint can hold."""

import random
from typing import cast

import numpy
import torch


def seed_everything(seed: int) -> None:
    """Seed every generator a network or a loss might use; batches and augmentation have generators of their own."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def random_states_beside(device: torch.device) -> tuple:
    """Those of Python, NumPy and, unless it is the device itself, PyTorch on the CPU, to be compared."""
    kind, keys, *rest = _of_numpy()
    cpu = [] if device.type == "cpu" else torch.get_rng_state().tolist()
    return random.getstate(), (kind, keys.tobytes(), *rest), cpu


def random_states() -> dict:
    kind, keys, *rest = _of_numpy()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype("int64")), *rest),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
    }


def set_random_states(states: dict) -> None:
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    numpy.random.set_state((kind, keys.numpy().astype("uint32"), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"][0].cpu())


def _of_numpy() -> tuple[str, numpy.ndarray, int, int, float]:
    return cast(tuple[str, numpy.ndarray, int, int, float], numpy.random.get_state())  # a dict only when asked for one
