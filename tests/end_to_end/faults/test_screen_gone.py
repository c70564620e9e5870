"""Runs whose screen goes away: they train on to the same bits, and a table that nobody reads ends quietly."""

import os
import subprocess
import sys

import pytest
from training_runs import ALONE, RUN, assert_same_run, end, only_folder, start, status

QUIET = [*ALONE, "tracking=none"]
SWEEP = ["-m", *QUIET, "seed=0,1", "hydra.launcher.jobs=1"]


def start_and_read_a_line(arguments, cwd):
    process = start(arguments, cwd)
    assert process.stdout.readline()
    return process


def start_on_a_terminal(arguments, cwd):
    """The process, and our end of the terminal that it is the leader of, once it has shown something."""
    ours, its = os.openpty()
    command = [sys.executable, "-c", LOGIN, sys.executable, str(RUN), *arguments]
    process = subprocess.Popen(command, cwd=cwd, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    assert os.read(ours, 1)
    return process, ours


LOGIN = "import os, sys; os.login_tty(os.dup(0)); os.execv(sys.argv[1], sys.argv[1:])"


def test_a_pipe_that_is_closed(alone_run, tmp_path):
    process = start_and_read_a_line(QUIET, tmp_path)
    process.stdout.close()
    assert (process.wait(300), process.stderr.read()) == (0, "")
    assert_same_run(only_folder(tmp_path), alone_run)
    assert status(only_folder(tmp_path)) == "finished"


def test_a_terminal_that_is_closed(alone_run, tmp_path):
    process, ours = start_on_a_terminal(QUIET, tmp_path)
    os.close(ours)  # its processes get a SIGHUP, and cannot write any more
    assert process.wait(300) == 0
    assert_same_run(only_folder(tmp_path), alone_run)


@pytest.mark.full
@pytest.mark.parametrize("closed", ["pipe", "terminal"])
def test_a_sweep(closed, alone_run, tmp_path):
    if closed == "pipe":
        process = start_and_read_a_line(SWEEP, tmp_path)
        process.stdout.close()
    else:
        process, ours = start_on_a_terminal(SWEEP, tmp_path)
        os.close(ours)
    assert process.wait(300) == 0
    assert_same_run(next(tmp_path.glob("runs/*-s0-*")), alone_run)
    assert status(next(tmp_path.glob("runs/*-s1-*"))) == "finished"


@pytest.mark.parametrize(
    ("redirections", "said"),
    [
        (">/dev/full", "mcl_lab: what was printed is not whole: No space left on device\n"),
        pytest.param(">&-", "", marks=pytest.mark.full),
        pytest.param("<&- >&- 2>&-", "", marks=pytest.mark.full),
        pytest.param(">/dev/full 2>&1", "", marks=pytest.mark.full),
    ],
)
def test_no_screen_from_the_start(redirections, said, alone_run, tmp_path):
    ended = end(start(QUIET, tmp_path, before=["sh", "-c", f'exec "$@" {redirections}', "sh"]))
    assert ended == (0, "", said)
    assert_same_run(only_folder(tmp_path), alone_run)


@pytest.mark.parametrize("arguments", [["task=list"], ["--help"]])
def test_what_is_only_printed(arguments, tmp_path):
    """A pager that quits wants no more; a file is whole or the command failed."""
    process = start_and_read_a_line(arguments, tmp_path)
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (0, "")
    ended = end(start(arguments, tmp_path, before=["sh", "-c", 'exec "$@" >/dev/full', "sh"]))
    assert ended == (1, "", "mcl_lab: error: what was printed is not whole: No space left on device\n")
