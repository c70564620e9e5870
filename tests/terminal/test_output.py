"""What a task has to say: the same values for a program and for a person."""

import io
import json

import pytest
from rich.console import Console

from mcl_lab.terminal.output import put_out, show_lines

PLAIN = {"name": "größe", "none": None, "rows": [{"top1": 12.5}]}


def test_a_program_gets_json_and_nothing_else(capsys):
    put_out("json", PLAIN, lambda console: pytest.fail("shown"))
    out, error = capsys.readouterr()
    assert (out, error) == (json.dumps(PLAIN, indent=2) + "\n", "")


def test_a_person_gets_what_is_shown(capsys):
    put_out("table", PLAIN, lambda console: console.print("[bold]12.5\x1b[31m", soft_wrap=True))
    assert capsys.readouterr().out == "[bold]12.5?[31m\n"


def test_lines_can_be_copied():
    console, command = Console(file=io.StringIO(), width=20), f"python run.py {'x' * 200}"
    show_lines(console, [("live", command), ("end it", "y")])
    assert console.file.getvalue() == f"live           {command}\nend it         y\n"
