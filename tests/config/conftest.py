"""A package of stand-ins that a config may name, and run.py called in an empty folder."""

import textwrap

import pytest

STAND_IN = '''
"""Importing this must never happen while a config is checked."""
from typing import Annotated, Literal, Optional, Union
from .deeper import Renamed as Thing, Base
from json import loads

imported = True
class Head:
    def __init__(self, widths, heads, weight: Annotated[float, "> 0"] = 1.0, kind: Literal["a", "b"] = "a"): ...
class OfPairs(Head):
    min_peers = 3
class NeedsHead:
    requires = ("head",)
    def __init__(self): ...
class Child(Base):
    """Takes what its base takes."""
def anything(**options): ...
def sizes(one: int, pair: tuple[int, int] = (1, 2), many: list[float] = (), *, note: str = None): ...
def _private(): ...
'''
DEEPER = """
from dataclasses import dataclass
class Base:
    def __init__(self, depth: int, *, scale: "float | None" = None): ...
@dataclass
class Renamed:
    count: int
    label: str = "x"
"""
TASKS = """
from contextlib import suppress

from mcl_lab.config.compose import run_folder
from mcl_lab.config.stored import to_yaml
from mcl_lab.errors import InputError, Interrupted, RunFailed

calls = []
def record(config, *, label="none", fail=None):
    calls.append((config, label))
    if fail == "input":
        raise InputError("task.label", "refused\\nhere")
    if fail == "run":
        raise RunFailed("the loss is NaN")
    if fail == "signal":
        raise Interrupted("stopped", 15)
    if fail == "keyboard":
        raise KeyboardInterrupt
    if fail == "bug":
        raise ZeroDivisionError
    with suppress(OSError):  # a name may be too long for a file system
        run_folder(config).mkdir(parents=True, exist_ok=True)
        (run_folder(config) / "config.yaml").write_text(to_yaml(config, clean=str))
"""


@pytest.fixture
def stand_in(tmp_path_factory, monkeypatch):
    """Makes the packages `stand_in` and `stand_in_tasks` allowed and importable; returns the folder they are in."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "stand_in").mkdir()
    (folder / "stand_in" / "__init__.py").write_text(textwrap.dedent(STAND_IN))
    (folder / "stand_in" / "deeper.py").write_text(textwrap.dedent(DEEPER))
    (folder / "stand_in_tasks.py").write_text(textwrap.dedent(TASKS))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("MCL_LAB_PLUGINS", "stand_in, stand_in_tasks")
    return folder


@pytest.fixture
def calls(stand_in, monkeypatch):
    """The (config, label) that the task of `RECORD` was called with."""
    import stand_in_tasks

    monkeypatch.setattr(stand_in_tasks, "calls", [])
    return stand_in_tasks.calls


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path
