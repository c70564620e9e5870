"""What sbatch is handed, and what its answers come to."""

import subprocess
from pathlib import Path

import pytest
from submitit.core.utils import FailedJobError, FailedSubmissionError

from mcl_lab.errors import InputError
from mcl_lab.launch.sbatch import is_refusal, refuse_patterns


@pytest.mark.parametrize("name", ["50% off", "50%done", "100%", "%-5%e"])
def test_a_percent_sign_that_says_nothing_to_slurm(name):
    refuse_patterns(Path("/data") / name / "jobs")


PATTERNS = [
    "10%a",
    "5%train",
    "%Add",
    "x%j",
    "%u",
    "%xy",
    "%Nodes",
    "%n",
    "%s",
    "%J",
    "%3q",
    "a%%b",
    "back\\slash",
    "a\nb",
]


@pytest.mark.parametrize("name", PATTERNS)
def test_folders_that_slurm_would_take_for_others(name, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="hydra/launcher: the path .* use another folder") as refused:
        refuse_patterns(Path("/data") / name / "jobs")
    assert "\n" not in str(refused.value)
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="hydra/launcher"):
        refuse_patterns(Path("runs/sweeps/one/jobs"))
    if "%" in name:  # the current folder is no pattern for sbatch
        refuse_patterns(Path("/data/jobs"))
    else:
        with pytest.raises(InputError, match="hydra/launcher"):
            refuse_patterns(Path("/data/jobs"))


def ended(status):
    error = FailedJobError("sbatch has failed")
    error.__cause__ = subprocess.CalledProcessError(status, "sbatch")
    return error


REFUSED = "Batch job submission failed: Invalid partition name specified"
LOST = [
    "Socket timed out on send/recv operation",
    "Zero Bytes were transmitted or received",
    "Unable to contact slurm controller (connect failure)",
    "Unable to contact slurm controller (receive failure)",
    "Message receive failure",
    "Unexpected message received",
    "Connection reset by peer",
]


def test_whether_sbatch_has_refused():
    """When it was killed, or nobody understands it, or the files could not be moved afterwards, the jobs may be there."""
    assert is_refusal(ended(1), REFUSED)
    assert not any(is_refusal(ended(1), f"Batch job submission failed: {words}") for words in LOST)
    for error in (ended(-9), FailedSubmissionError("no number"), OSError("no space")):
        assert not is_refusal(error, "")
