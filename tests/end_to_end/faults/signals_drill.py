"""Runs that are struck by signals at random moments, each time going on by the same command, and what must come of them."""

import json
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

from training_runs import Ended, Store, assert_same_run, end, epochs, only_folder, result, start, status

from mcl_lab.runs.checkpoints import newest_file, read

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
MOMENTS = ("start-up", "training", "checkpoint", "journal")
STRIKES = 8  # about so many a run


def drill(arguments, signals: int, *, whole: Path, empty_store: Path, folder: Path) -> Counter:
    """Strike runs of `arguments` with so many signals in all; each run must come to the bits of `whole`, and be recorded once.

    Returns how often each signal struck at each moment.
    """
    seed = random.SystemRandom().randrange(10**9)
    print("seed of the random moments:", seed)
    chance, struck, number = random.Random(seed), Counter(), 0
    while struck.total() < signals:
        cwd = folder / f"run{number}"
        cwd.mkdir()
        store = Store(Path(shutil.copy(empty_store, cwd / "mlflow.db")))
        _strike_until_finished(arguments, signals, whole, cwd, chance, struck)
        run = only_folder(cwd)
        assert_same_run(run, whole)
        assert status(run) == "finished"
        assert_recorded_once(store, run)
        number += 1
    print(f"{number} runs:", {f"{name} at {moment}": count for (name, moment), count in sorted(struck.items())})
    return struck


def _strike_until_finished(arguments, signals, whole, cwd, chance, struck) -> None:
    span = training_seconds(whole) / STRIKES
    while struck.total() < signals:
        process = start(arguments, cwd)
        number, moment = chance.choice(SIGNALS), chance.choice(MOMENTS)
        _wait_until(moment, process, cwd, chance, span)
        process.send_signal(number)
        ended = end(process)
        _assert_in_order(ended, number, cwd, whole)
        if ended.status == 0:  # it came too late
            return
        struck[number.name, moment] += 1
    ended = end(start(arguments, cwd))
    assert (ended.status, ended.err) == (0, "")


def _assert_in_order(ended: Ended, number: signal.Signals, cwd: Path, whole: Path) -> None:
    """What must be true however a run has been struck."""
    for run in cwd.glob("runs/*/metrics.jsonl"):
        done = epochs(run.parent)
        assert done == epochs(whole)[: len(done)]
    if f"stopped: by {number.name} after step " in ended.err:
        assert ended.status == 128 + number and ended.err.count("\n") == 1
        run = only_folder(cwd)
        step = int(ended.err.partition(" after step ")[2].partition(";")[0])
        assert status(run) == "interrupted" and read(newest_file(run / "checkpoints"))["position"]["step"] == step
    else:  # killed, or struck before training or after it
        interrupted = 130 if number == signal.SIGINT else None
        assert ended.status in (0, -number, interrupted), ended


def _wait_until(moment, process, cwd, chance, span) -> None:
    """A random moment: while the process starts up, after it has gone on training, or when a file of that kind is written."""
    if moment == "start-up":
        time.sleep(chance.uniform(0, 3))
        return
    before, look = _begun(cwd), {"training": lambda _: None, "checkpoint": _checkpoints, "journal": _lines}[moment]
    while process.poll() is None and _begun(cwd) == before:
        time.sleep(0.005)
    seen = look(cwd)
    deadline = time.monotonic() + (chance.uniform(0, 2 * span) if moment == "training" else 30)
    while process.poll() is None and time.monotonic() < deadline and look(cwd) == seen:
        time.sleep(0.0005)


def _begun(cwd) -> int:
    """How often the run was started or gone on with, as its log has it."""
    return sum(path.read_text().count(" at epoch ") for path in Path(cwd).glob("runs/*/run.log"))


def _checkpoints(cwd) -> set:
    """The files there, temporary ones too: a checkpoint is being written, or has just been renamed."""
    folders = list(Path(cwd).glob("runs/*/checkpoints"))
    return {path.name for folder in folders for pattern in ("*", ".*.tmp") for path in folder.glob(pattern)}


def _lines(cwd) -> int:
    return sum(path.stat().st_size for path in Path(cwd).glob("runs/*/metrics.jsonl"))


def training_seconds(folder) -> float:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return sum(record["metrics"]["train/seconds"] for record in records)


def assert_recorded_once(store, folder):
    """MLflow has one run, finished, with the points of the journal and of the result, each once."""
    store.wait_for("FINISHED")
    assert store.runs() == [("FINISHED", folder.name)]
    journal = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    points = [(name, record["epoch"], value) for record in journal for name, value in record["metrics"].items()]
    points += [(name, journal[-1]["epoch"], value) for name, value in result(folder)["final"].items()]
    assert store.points() == sorted(points)
