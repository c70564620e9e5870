"""Where a process looks for modules."""

import os
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[2]
IMPORTING = f"""
import sys
sys.path.insert(0, {str(HOUSE)!r})
from mcl_lab.host.modules import libraries_first
libraries_first()
import random, mine
print(mine.PLACE)
"""


def test_a_package_that_mcl_lab_plugins_names_is_found_where_it_is(tmp_path):
    """In the current folder before any other place; elsewhere where Python finds it."""
    for place in ("here", "elsewhere"):
        (tmp_path / place / "mine").mkdir(parents=True)
        (tmp_path / place / "mine" / "__init__.py").write_text(f"PLACE = {place!r}\n")
    (tmp_path / "here" / "random.py").write_text("raise SystemExit('a draft of mine was run')")
    for plugins, place in (("mine", "here"), ("other, mine", "here"), ("", "elsewhere")):
        variables = {"PYTHONPATH": f".{os.pathsep}{tmp_path}/elsewhere", "MCL_LAB_PLUGINS": plugins}
        command = [sys.executable, "-c", IMPORTING]
        done = subprocess.run(
            command, cwd=tmp_path / "here", env=os.environ | variables, capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == (f"{place}\n", "")
