"""The device that a run is computed on, and how."""

import os

import torch
from omegaconf import DictConfig

from mcl_lab.errors import InputError
from mcl_lab.training.memory import keep_freed_memory


def device_of(trainer: DictConfig) -> torch.device:
    """The device that trainer.device means, a CUDA device with its number. Raises InputError("trainer.device")."""
    name = trainer.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        return device
    device, count = torch.device("cuda", device.index or 0), torch.cuda.device_count()
    if device.index >= count:
        raise InputError("trainer.device", f"{name} is not there ({count} CUDA devices); use cpu or auto")
    return device


def use_device(trainer: DictConfig) -> torch.device:
    """The device to train on, with threads, precision and determinism set. Raises InputError("trainer.device")."""
    device = device_of(trainer)
    if device.type == "cuda":
        try:
            torch.cuda.set_device(device)  # whose stream events and copies are then on
            torch.zeros(1, device=device)
        except RuntimeError as error:  # another process has it to itself; a GPU that this PyTorch has no kernels for
            reason = str(error).partition("\n")[0]
            raise InputError("trainer.device", f"{device} cannot be used: {reason}; use another, or cpu") from error
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    if device.type == "cpu":
        keep_freed_memory()
    if trainer.precision == "tf32" and device.type == "cpu":
        raise InputError("trainer.precision", "tf32 needs a CUDA device; use float32 or bf16")
    if trainer.graphs and device.type == "cpu":
        raise InputError("trainer.graphs", "true needs a CUDA device; they are CUDA graphs")
    torch.backends.cudnn.allow_tf32 = trainer.precision == "tf32"  # of convolutions; losses stay float32
    torch.backends.cuda.matmul.allow_tf32 = False  # which an environment variable may have changed
    torch.backends.cudnn.benchmark = not trainer.deterministic
    # Asked for by deterministic algorithms, harmless without.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(trainer.deterministic)
    return device
