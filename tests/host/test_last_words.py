"""Why a program ended: in its own words, else by its signal, its status and what it printed last."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcl_lab.host import last_words

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("status", "words", "printed", "why"),
    [
        (2, "data.root: no", "some other line\n", "data.root: no"),
        (-6, "the loss is NaN", "", "the loss is NaN"),  # it broke down after it had said so
        (3, None, "first\nlast\n\n", "exit status 3: last"),
        (3, "", "", "exit status 3"),
        (-9, None, "last\n", "killed by SIGKILL"),
        (-40, None, "last\n", "killed by signal 40"),
    ],
)
def test_why_it_ended(status, words, printed, why, tmp_path):
    place = tmp_path / "words"
    if words is not None:
        place.write_text(words + "\n")
    assert last_words.why_ended(status, place, printed) == why
    assert not place.exists()


def test_what_was_printed_before_does_not_count(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\nafter\n")
    assert last_words.end_of(log, len("before\n")) == "after\n"
    assert last_words.end_of(tmp_path / "none", 0) == ""


def run(*words, cwd, code=None, **environment):
    command = [sys.executable, "-c", code] if code else [sys.executable, ROOT / "run.py", *words]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)


def test_the_program_leaves_its_error(tmp_path):
    place = tmp_path / "words"
    place.write_text("of an earlier attempt\n")
    ended = run("seed=x", cwd=tmp_path, **last_words.asked_for(place))
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert line == f"mcl_lab: error: {last_words.why_ended(2, place, '')}" and "seed" in line


def test_a_defect_is_told_by_its_exception_in_one_line(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from mcl_lab import cli; sys.excepthook = cli.report_defect\n"
        "cli.checked = lambda overrides: 1 / 0\ncli.main([])"
    )
    place = tmp_path / "words"
    ended = run(cwd=tmp_path, code=code, **last_words.asked_for(place))
    assert ended.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert last_words.why_ended(ended.returncode, place, "") == "ZeroDivisionError: division by zero"


def test_nothing_is_written_for_nobody_nor_by_what_the_program_starts(tmp_path, monkeypatch):
    run("seed=x", cwd=tmp_path)
    assert not list(tmp_path.iterdir())
    place = tmp_path / "words"
    monkeypatch.setenv(last_words.VARIABLE, str(place))
    last_words.claim()
    assert last_words.VARIABLE not in os.environ
    run("seed=x", cwd=tmp_path)
    assert not place.exists()
    last_words.leave("mine")
    assert place.read_text() == "mine\n"
    last_words.claim()  # nobody asks any more
    place.unlink()
    last_words.leave("mine")
    assert not place.exists()
