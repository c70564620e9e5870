"""Signals that ask a run to stop: it stops in good order, and the same command finishes it."""

import json
import signal
import time

import pytest
from training_runs import LMCL, assert_same_run, end, fork, main_in, only_folder, start, status

from mcl_lab.runs.checkpoints import newest_file, read


@pytest.mark.parametrize(
    ("number", "step"),
    [(signal.SIGINT, 1), (signal.SIGUSR2, 22), (signal.SIGINT, 30)],  # before a meta event, at an epoch's end, anywhere
)
def test_stop_and_go_on(number, step, call, stopping, lmcl_run, tmp_path):
    with stopping(step, number):
        ended = call(*LMCL, "tracking=none")
    assert ended.status == 128 + number
    assert ended.err == f"mcl_lab: stopped: by {number.name} after step {step}; the same command goes on from there\n"
    folder = only_folder(tmp_path)
    assert read(newest_file(folder / "checkpoints"))["position"]["step"] == step
    assert status(folder) == "interrupted" and not (folder / "result.json").exists()

    ended = call(*LMCL, "tracking=none")
    assert (ended.status, ended.err) == (0, "")
    assert_same_run(folder, lmcl_run)
    assert status(folder) == "finished"
    assert f"INFO going on at epoch {1 + step // 23}, step {step}\n" in (folder / "run.log").read_text()


def test_sigterm_and_mlflow(lmcl_run, store, tmp_path):
    process = start(LMCL, tmp_path)
    wait_for_training(process, tmp_path)
    process.send_signal(signal.SIGTERM)
    ended = end(process)
    assert ended.status == 128 + signal.SIGTERM
    assert ended.err.startswith("mcl_lab: stopped: by SIGTERM after step ") and ended.err.count("\n") == 1
    store.wait_for("KILLED")

    ended = end(start(LMCL, tmp_path))
    assert (ended.status, ended.err) == (0, "")
    assert_same_run(only_folder(tmp_path), lmcl_run)
    assert store.runs() == [("FINISHED", lmcl_run.name)]  # before the command ends


def test_a_meta_event_is_broken_off(undisturbed, tmp_path):
    """A long one: of 20 virtual steps, in a run of two steps."""
    arguments = [*LMCL, "tracking=none", "loss.meta_event.inner_steps=20", "trainer.max_steps=2"]
    whole = undisturbed(*arguments)
    event_seconds = json.loads((whole / "metrics.jsonl").read_text())["metrics"]["train/seconds"]
    process = start(arguments, tmp_path)
    wait_for_training(process, tmp_path)
    time.sleep(event_seconds / 4)
    process.send_signal(signal.SIGTERM)
    assert end(process).status == 128 + signal.SIGTERM
    position = read(newest_file(only_folder(tmp_path) / "checkpoints"))["position"]
    assert position == {"epoch": 0, "batch": 0, "step": 1, "event_due": True}

    assert fork(main_in, tmp_path, arguments) == 0
    assert_same_run(only_folder(tmp_path), whole)


def test_a_second_interrupt_ends_at_once(call, stopping, tmp_path):
    with stopping(3, signal.SIGINT, signal.SIGINT):
        ended = call(*LMCL, "tracking=none")
    assert (ended.status, ended.err) == (130, "mcl_lab: interrupted\n")
    folder = only_folder(tmp_path)
    assert status(folder) == "interrupted"
    assert not (folder / "checkpoints").exists()  # no time was taken for one
    assert not (folder / "run.lock").exists()


def wait_for_training(process, cwd):
    while process.poll() is None:
        if any(" starting at epoch" in log.read_text() for log in cwd.glob("runs/*/run.log")):
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])
