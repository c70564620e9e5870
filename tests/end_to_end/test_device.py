"""trainer.device on a machine with two CUDA devices, as far as that is to be seen without one."""

import pytest
import torch

from mcl_lab.assembly.device import use_device
from mcl_lab.config.compose import compose
from mcl_lab.errors import InputError


@pytest.fixture
def two_devices(monkeypatch):
    """The numbers of the devices that are made the present one."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch._C, "_cuda_setDevice", chosen.append, raising=False
    )  # what torch.cuda.set_device comes down to
    monkeypatch.setattr(torch, "zeros", lambda *size, device: None)  # on a device that is not there
    return chosen


def device_for(name):
    return use_device(compose([f"trainer.device={name}", "trainer.threads=1"]).trainer)


@pytest.mark.parametrize(("name", "number"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_it_is_the_present_one_and_has_a_number(name, number, two_devices):
    assert device_for(name) == torch.device("cuda", number)
    assert two_devices == [number]


def test_matrix_products_are_float32_whatever_the_environment_says(two_devices):
    torch.backends.cuda.matmul.allow_tf32 = True  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE does
    device_for("cuda")
    assert torch.backends.cuda.matmul.allow_tf32 is False


def test_it_is_not_there(two_devices):
    with pytest.raises(InputError, match="cuda:2 is not there .2 CUDA devices."):
        device_for("cuda:2")
    assert two_devices == []


def test_it_cannot_be_used(two_devices, monkeypatch):
    def refuse(*size, device):
        raise RuntimeError(
            "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be"
        )

    monkeypatch.setattr(torch, "zeros", refuse)
    with pytest.raises(InputError) as error:
        device_for("auto")
    assert error.value.key == "trainer.device" and "\n" not in str(error.value)
    assert "cuda:0 cannot be used: CUDA error: no kernel image is available" in str(error.value)
