"""What is seen of a sweep, on a terminal and in a file."""

import io
import os
import sys

import pytest
from rich.console import Console

from mcl_lab.host.output import lasting_output
from mcl_lab.launch.ledger import Ledger
from mcl_lab.launch.ledger_run import Attempt, LedgerRun
from mcl_lab.launch.standing import Seen
from mcl_lab.terminal.sweep import SweepScreen, follow, show_sweep

SEEN = {
    "done": Seen(False, "finished", "", 0, 3, [71.25, 70.5]),
    "going": Seen(True, "running", "", 0, 2, [50.0]),
    "bad": Seen(False, "failed", "the loss is NaN", 0, 1, [1.0]),
    "later": Seen(False, None, "", 0, 0, []),
}


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path, saved=False, observe=lambda run: seen[run.name])
    seen = made.seen = dict(SEEN)
    attempts = {"going": [Attempt(1, "1", "here", "3", 5)]}
    made.enter(
        LedgerRun(f"runs/{name}", name, "p", "l", "d", 0, 3, True, f"logs/{name}.log", attempts.get(name, []))
        for name in SEEN
    )
    return made


def in_a_file(width=100):
    return Console(file=io.StringIO(), width=width)


def test_all_runs_and_why_some_failed(ledger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "bad.log").touch()
    console = in_a_file()
    show_sweep(console, "mine", [(run, ledger.standing(run)) for run in ledger.runs])
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    for row in ("done finished 3/3 71.25 70.50", "going running 2/3 50.00 on GPU 3", "later waiting 0/3"):
        assert row in lines
    assert lines[-2:] == ["bad failed: the loss is NaN", "log: logs/bad.log"]


def test_in_a_file_a_line_for_each_change_and_no_control_characters(ledger):
    console = in_a_file()
    with SweepScreen(console, "mine", ledger, ledger.runs) as show:
        ledger.seen["going"] = SEEN["done"]
        show()
        show()  # nothing new
    text = console.file.getvalue()
    assert text.splitlines() == [
        "Sweep mine: 1 running, 1 waiting, 1 finished, 1 failed",
        "finished  going  71.25 70.50",
    ]


def test_on_a_terminal_a_table_of_what_matters(ledger):
    console = Console(file=io.StringIO(), width=100, height=40, force_terminal=True, color_system=None)
    with SweepScreen(console, "mine", ledger, ledger.runs) as show:
        show()
        shown = console.file.getvalue()
    assert "Sweep mine: 1 running, 1 waiting, 1 finished, 1 failed" in shown and "Ctrl-C" in shown
    assert "going" in shown and "the loss is NaN" in shown and "done" in shown and "later" not in shown


@pytest.mark.parametrize("width", [30, 60, 80, 120, 200])
@pytest.mark.parametrize("reason", ["the loss is NaN", "the loss is NaN in step 3; " * 20, "x" * 500])
def test_a_long_reason_takes_no_room_from_the_other_columns(ledger, width, reason):
    ledger.seen["bad"] = Seen(False, "failed", reason, 0, 1, [1.0])
    console = in_a_file(width)
    show_sweep(console, "mine", [(run, ledger.standing(run)) for run in ledger.runs])
    table, _, _ = console.file.getvalue().partition("bad failed: ")
    rows = [line.split() for line in table.splitlines()]
    assert {" ".join(row[:3]) for row in rows if len(row) > 2} >= {
        "done finished 3/3",
        "going running 2/3",
        "bad failed 1/3",
    }
    assert max(map(len, table.splitlines())) <= max(width, 45)  # which is what the other columns need
    assert reason in console.file.getvalue()  # below the table, whole
    if width >= 80:
        assert f"1.00   {reason[:15]}" in table


@pytest.mark.parametrize("width", [50, 80, 120])
def test_on_a_terminal_a_long_name_is_shortened_instead(ledger, width):
    ledger.seen["x" * 90] = Seen(False, "failed", "the loss is NaN " * 20, 0, 1, [1.0])
    ledger.enter([LedgerRun(f"runs/{'x' * 90}", "x" * 90, "p", "l", "d", 0, 3, True, "log", [])])
    console = Console(file=io.StringIO(), width=width, height=40, force_terminal=True, color_system=None)
    with SweepScreen(console, "mine", ledger, ledger.runs) as show:
        show()
        (_, *lines) = console.file.getvalue().splitlines()  # but for the first, which hides the cursor
    (row,) = [line.split() for line in lines if "xxx" in line]
    assert row[1:4] == ["failed", "1/3", "1.00"] and row[0].endswith("…") and max(map(len, lines)) <= width


def test_what_does_not_fit_is_counted(ledger):
    console = Console(file=io.StringIO(), width=100, height=11, force_terminal=True, color_system=None)
    runs = ledger.runs + [LedgerRun(f"runs/bad{n}", f"bad{n}", "p", "l", "d", 0, 3, True, "log", []) for n in range(5)]
    ledger.seen |= {f"bad{n}": SEEN["bad"] for n in range(5)}
    with SweepScreen(console, "mine", ledger, runs) as show:
        show()
        assert "... and 5 more" in console.file.getvalue()


def test_a_terminal_that_is_gone_stops_nothing(ledger):
    class Gone(io.StringIO):
        def write(self, _):
            raise OSError(5, "Input/output error")

    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with SweepScreen(console, "mine", ledger, ledger.runs) as show:
        console.file = Gone()
        show()


def test_looking_ends_when_nobody_reads(ledger, monkeypatch):
    """Though a run goes on, and a launcher too."""
    ours, its = os.pipe()
    os.close(ours)
    monkeypatch.setattr(sys, "stdout", os.fdopen(its, "w"))
    with lasting_output():
        follow(Console(width=100), ledger, ledger.runs, lambda: True, unseen=False)
