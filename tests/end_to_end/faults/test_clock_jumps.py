"""The clock jumps by hours and years, forwards and back, in the training process and in its sender."""

import json
import os
import time

import pytest
from signals_drill import assert_recorded_once
from training_runs import BASELINE, assert_same_run, end, only_folder, result, start, status

# Of every Python process that finds it: its clock shows what the file CLOCK_OFFSET says besides (in seconds).
JUMPING_CLOCK = """
import os, time

real, real_ns = time.time, time.time_ns

def offset():
    with open(os.environ["CLOCK_OFFSET"]) as file:
        return int(file.read() or 0)

time.time = lambda: real() + offset()
time.time_ns = lambda: real_ns() + offset() * 10**9
"""
JUMPS = [3600, -7200, 10**8, -(10**8), 86400]


@pytest.mark.full
def test_jumps_in_every_epoch(undisturbed, store, tmp_path):
    arguments = [*BASELINE, "trainer.epochs=20"]
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(JUMPING_CLOCK)
    offset = tmp_path / "offset"
    offset.write_text("0")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "clock"), "CLOCK_OFFSET": str(offset)}
    process, jumps, before = start(arguments, tmp_path, env=environment), 0, 0
    while process.poll() is None:
        lines = sum(path.read_text().count("\n") for path in tmp_path.glob("runs/*/metrics.jsonl"))
        if lines > before:
            (tmp_path / "next").write_text(str(JUMPS[jumps % len(JUMPS)]))
            os.replace(tmp_path / "next", offset)
            jumps, before = jumps + 1, lines
        time.sleep(0.002)
    ended = end(process)
    assert (ended.status, ended.err) == (0, "") and jumps >= len(JUMPS)
    folder = only_folder(tmp_path)
    assert_same_run(folder, undisturbed(*arguments, "tracking=none"))
    assert status(folder) == "finished" and result(folder)["epochs"] == 20
    assert_recorded_once(store, folder)
    times = [json.loads(line)["time_ms"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert times != sorted(times) and max(times) - min(times) > 10**8 * 1000  # the clock did jump
