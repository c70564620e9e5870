"""The GPUs that a launcher shares out."""

import pytest

from mcl_lab.launch.devices import visible_gpus


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Has nvidia-smi print something."""

    def prints(*lines):
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        program.chmod(0o755)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return prints


@pytest.mark.parametrize(
    ("lines", "gpus"),
    [(["0", "1"], ["0", "1"]), (["No devices were found"], []), ([], [])],
    ids=["two", "none", "nothing"],
)
def test_what_nvidia_smi_says(lines, gpus, nvidia_smi):
    nvidia_smi(*lines)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(
    ("listed", "gpus"), [("2,GPU-8a1e", ["2", "GPU-8a1e"]), ("", []), ("-1", []), ("NoDevFiles", [])]
)
def test_the_environment_comes_first(listed, gpus, nvidia_smi, monkeypatch):
    nvidia_smi("0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == gpus
