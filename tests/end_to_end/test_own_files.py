"""Files of the user's own that are named as modules of Python or of libraries: no process that is started runs them."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from training_runs import ALONE, RUN, only_folder

from mcl_lab.host.modules import own_process
from mcl_lab.runs.code import PARTS

LIBRARIES = "PIL alembic cuda flask google hydra matplotlib mlflow numpy omegaconf pandas requests rich sklearn sqlalchemy torch"
PYTHONS_OWN = sys.stdlib_module_names - {"__main__"}


def drafts(folder: Path) -> None:
    """A file for every module of Python that is here, and for libraries."""
    for name in [*LIBRARIES.split(), *filter(find_spec, PYTHONS_OWN)]:
        (folder / f"{name}.py").write_text("raise SystemExit('a draft of mine was run')\n")


@pytest.fixture(params=["in the current folder", pytest.param("beside run.py", marks=pytest.mark.full)])
def run_py(request, tmp_path) -> str:
    """A run.py to call in tmp_path, in which every module has a namesake."""
    drafts(tmp_path)
    if request.param == "in the current folder":
        return str(RUN)
    for part in PARTS:
        place = RUN.with_name(part)
        (shutil.copytree if place.is_dir() else shutil.copy)(place, tmp_path / part)
    return "run.py"


def run(command, cwd) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_run_is_trained_recorded_and_read(run_py, store, tmp_path):
    run([sys.executable, run_py, *ALONE, "trainer.max_steps=1", "tracking.wait=120"], tmp_path)
    name = only_folder(tmp_path).name
    assert store.runs() == [("FINISHED", name)]
    (tmp_path / "fetched").mkdir()
    said = run(own_process("mcl_lab.tracking.fetch", f"sqlite:///{store.file}", "mcl_lab", name, "fetched"), tmp_path)
    assert json.loads(said)["name"] == name and (tmp_path / "fetched" / "config.yaml").exists()
