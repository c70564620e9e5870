"""What a task has to say: the same values for a program and for a person."""

import io
import json

import pytest
from rich.console import Console

from mcl_lab.host.screen import Screen, show_table, table
from mcl_lab.host.text import SPELT_OUT
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


def test_columns_stay_straight_in_ascii():
    raw = io.BytesIO()
    console = Screen(file=io.TextIOWrapper(raw, encoding="ascii", errors=SPELT_OUT, write_through=True), width=80)
    made = table("été", ["name"], ["number"])
    made.add_row("größe", "1.0 ± 0.1")
    made.add_row("plain", "–")
    console.print(made)
    lines = [line for line in raw.getvalue().decode("ascii").splitlines() if line.startswith("|")]
    assert any(r"gr\xf6\xdfe" in line and "1.0 +- 0.1" in line for line in lines)
    places = {tuple(place for place, letter in enumerate(line) if letter == "|") for line in lines}
    assert len({place for place in places if len(place) > 2}) == len({place[-1] for place in places}) == 1


@pytest.mark.parametrize("width", [10, 30, 100])
def test_a_table_is_whole_however_narrow_the_screen_is(width):
    console, made = Console(file=io.StringIO(), width=width), table(None, ["peer", "network"], ["parameters", "top-1"])
    made.add_row("a", "resnet110", "1,730,714", "74.37 69.10")
    show_table(console, made)
    assert console.file.getvalue().split()[-5:] == ["a", "resnet110", "1,730,714", "74.37", "69.10"]
