"""SIGKILL at random moments, each time the same command again."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from runs import BASELINE, LMCL, assert_same_run, end, fork, main_in, only_folder, result, start, status

HETEROGENEOUS = [*LMCL, "pair=resnet8_resnet20", "pair.peers.b.widths=[4,4,4]"]
KEYS = {
    "float32": LMCL,
    "longer": [*LMCL, "trainer.epochs=4"],  # than twenty kills let it come
    "bf16": [*LMCL, "trainer.precision=bf16"],
    "heterogeneous": HETEROGENEOUS,
}
MORE_OFTEN = "trainer.checkpoint_steps=5"


@pytest.mark.parametrize(("kills", "key", "extra"), [
    (5, "float32", [MORE_OFTEN]),
    pytest.param(20, "longer", [MORE_OFTEN], marks=pytest.mark.full),
    pytest.param(4, "float32", [], marks=pytest.mark.full),
    pytest.param(10, "bf16", [MORE_OFTEN], marks=pytest.mark.full),
    pytest.param(10, "heterogeneous", [MORE_OFTEN], marks=pytest.mark.full),
])  # fmt: skip
def test_killed_at_random_moments(kills, key, extra, undisturbed, store, tmp_path):
    whole = undisturbed(*KEYS[key], "tracking=none")
    seed = random.SystemRandom().randrange(10**9)
    print("seed of the random moments:", seed)
    chance = random.Random(seed)
    training = training_seconds(whole)

    done = 0
    for number in range(kills):
        process = start([*KEYS[key], *extra], tmp_path)
        moment = ("start-up", "checkpoint", "training")[number % 3]
        wait_until(moment, process, tmp_path, chance, training / kills)
        process.kill()
        done += end(process).status == -signal.SIGKILL
    assert done >= kills - 1  # the last may have come too late

    ended = end(start([*KEYS[key], *extra], tmp_path))
    assert (ended.status, ended.err) == (0, "")
    folder = only_folder(tmp_path)
    assert_same_run(folder, whole)
    assert status(folder) == "finished"
    assert_recorded_once(store, folder)


def wait_until(moment, process, cwd, chance, span):
    """A random moment: while the process starts up, after it has gone on training, or at its first checkpoint."""
    if moment == "start-up":
        time.sleep(chance.uniform(0, 3))
        return
    entries = begun(cwd)
    checkpoints = written(cwd)
    while process.poll() is None and begun(cwd) == entries:
        time.sleep(0.005)
    deadline = time.monotonic() + 30 if moment == "checkpoint" else time.monotonic() + chance.uniform(0, 2 * span)
    while process.poll() is None and time.monotonic() < deadline:
        if moment == "checkpoint" and written(cwd) != checkpoints:  # a temporary file, or it has just been renamed
            return
        time.sleep(0.0005)


def begun(cwd) -> int:
    """How often the run was started or gone on with, as its log has it."""
    return sum(path.read_text().count(" at epoch ") for path in Path(cwd).glob("runs/*/run.log"))


def written(cwd) -> set:
    return {path.name for path in Path(cwd).glob("runs/*/checkpoints/*")} | {
        path.name for path in Path(cwd).glob("runs/*/checkpoints/.*.tmp")
    }


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


def die_before_write(number, cwd, arguments):
    """A run that kills itself when about to put its n-th file in place, or line into its journal."""
    real_replace, real_fsync, writes = os.replace, os.fsync, 0

    def count():
        nonlocal writes
        if writes == number:
            os.kill(os.getpid(), signal.SIGKILL)
        writes += 1

    def replace(*paths):
        count()
        real_replace(*paths)

    def fsync(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".jsonl"):
            count()
        real_fsync(descriptor)

    os.replace, os.fsync = replace, fsync
    main_in(cwd, arguments)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_at_every_write(baseline_run, tmp_path):
    """Before each file of a run is put in place: every state of the folder that a crash can leave."""
    arguments = [*BASELINE, "tracking=none", "trainer.checkpoint_steps=2"]
    for number in range(100):
        cwd = tmp_path / str(number)
        cwd.mkdir()
        first = fork(die_before_write, number, cwd, arguments)
        if first == 0:
            break
        assert first == -signal.SIGKILL
        assert fork(main_in, cwd, arguments) == 0, (cwd / "output.txt").read_text()
        folder = only_folder(cwd)
        assert_same_run(folder, baseline_run)
        assert status(folder) == "finished"
    # config, record, status; 2 checkpoints and a line an epoch, and one of two steps; networks, result, status
    assert number == 3 + (2 + 1) + (2 + 1 + 1) + 3
