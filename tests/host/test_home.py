"""The home folder, and where there is none: containers and clusters run programs as users whom no file knows."""

import subprocess
import sys
from pathlib import Path

import pytest
from shell import as_nobody

from mcl_lab.data.datasets import cifar10, imagefolder
from mcl_lab.errors import InputError
from mcl_lab.host.files import expanded
from mcl_lab.host.uri import stored_uri


def test_the_home_folder_stands_for_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/images", "data.root") == tmp_path / "images"
    assert expanded("images/~", "data.root") == Path("images/~")


@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("data.root", imagefolder),
        ("data.root", cifar10),
        ("tracking.uri", lambda path: stored_uri(f"sqlite:///{path}")),
    ],
)
def test_a_home_folder_that_nobody_has_is_refused(key, read):
    with pytest.raises(InputError, match=f"{key}: there is no home folder that ~no-such-user could stand for"):
        read("~no-such-user/place")


def test_mlflow_can_be_imported_without_a_home_folder():
    code = "import mcl_lab.tracking.mlflow, pathlib; print(pathlib.Path.home())"  # which MLflow asks for in its first lines
    done = subprocess.run([*as_nobody(), sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("/nonexistent\n", "")
