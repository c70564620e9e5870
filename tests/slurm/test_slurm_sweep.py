"""A sweep of eight runs on a real SLURM, one of which fails and is mended: what a user sees from beginning to end."""

import re
import sqlite3
import time
from contextlib import closing

import pytest
from desk import ONE_CORE, Desk
from training_runs import BASELINE

NETWORK = """
from torch import nn
from mcl_lab.networks.staged import StagedNetwork

class Stem(nn.Conv2d):
    def forward(self, images):
        BROKEN
        return super().forward(images)

class Plain(StagedNetwork):
    def __init__(self, num_classes: int):
        stages = [nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)) for _ in range(3)]
        super().__init__(Stem(3, 8, 3, 1, 1), stages, nn.ReLU(), width=8, num_classes=num_classes)
"""
BROKEN, MENDED = 'raise RuntimeError("the stem is upside down")', "pass"
ROWS = """
rows:
  - {seed: [0, 1, 2, 3]}
  - {pair.peers.b.widths: [[4, 4, 8], [4, 8, 16], [8, 8, 8]]}
  - {network@pair.peers.b: plain}
"""
AT_A_TIME = 3


@pytest.fixture(scope="module")
def desk(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    desk = Desk(folder, cluster)
    desk.environment |= {"MCL_LAB_PLUGINS": "mine", "PYTHONPATH": "."}
    for path, text in {
        "mine/nets.py": NETWORK.replace("BROKEN", BROKEN),
        "conf/network/plain.yaml": "name: plain\n_target_: mine.nets.Plain\n",
        "conf/sweeps/eight.yaml": ROWS,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return desk


def test_eight_runs_one_of_which_is_mended(desk):
    smaller = [word for word in BASELINE if "peers.b" not in word]
    command = [*ONE_CORE, "--config-dir=conf", "+sweeps=eight", *smaller, "trainer=auto", "trainer.threads=1"]
    command += [f"hydra.launcher.array_parallelism={AT_A_TIME}", "trainer.epochs=2"]

    began = time.monotonic()
    said = desk.run(*command)
    # Generous: it takes three seconds when nothing else runs.
    assert time.monotonic() - began < 30
    assert "8 of 8 runs submitted in 8 jobs" in said and "task=sweep task.sweep=eight task.action=status" in said
    (array,) = set(re.findall(r"job (\d+)_\d", said))

    # Not twice: all of them are in the queue or running.
    assert "0 of 8 runs submitted" in desk.run(*command)

    standings = desk.wait("eight", lambda runs: all(run["state"] in ("finished", "failed") for run in runs))
    (failed,) = [run for run in standings if run["state"] == "failed"]
    assert "plain" in failed["name"] and "the stem is upside down" in failed["detail"]
    assert "Traceback" in (desk.folder / failed["log"]).read_text()
    assert {run["state"] for run in standings if run is not failed} == {"finished"}
    for run in standings:
        desk.cluster.wait(run["job"])  # which the accounting knows a moment after the run has ended
    records = desk.cluster.run("sacct", "-n", "-P", "-X", "-j", array, "-o", "JobID,State,ExitCode,NodeList").split(
        "\n"
    )
    states = {name: (state, code, node) for name, state, code, node in (line.split("|") for line in records)}
    assert len(states) == 8
    assert {name for name, (state, *_) in states.items() if state == "FAILED"} == {failed["job"]}
    assert states[failed["job"]][1] == "1:0"
    assert {state for name, (state, *_) in states.items() if name != failed["job"]} == {"COMPLETED"}
    table = desk.run("task=sweep", "task.sweep=eight")
    assert f"{failed['name']} failed: " in table and f"log: {failed['log']}" in table
    check_places(desk, standings, {name: node for name, (_, _, node) in states.items()})

    (desk.folder / "mine" / "nets.py").write_text(NETWORK.replace("BROKEN", MENDED))
    assert "1 of 8 runs submitted in 1 job" in desk.run(*command)
    standings = desk.wait_all("eight")
    assert sorted(run["attempts"] for run in standings) == [1] * 7 + [2]
    for run in standings:
        desk.cluster.wait(run["job"])
    assert len(desk.cluster.run("sacct", "-n", "-X", "-o", "JobID", "--name=mcl-eight").split()) == 9

    desk.wait_recorded()
    with closing(sqlite3.connect(desk.folder / "mlflow.db")) as store:
        runs = store.execute("SELECT run_uuid, name, status FROM runs").fetchall()
        parents = store.execute("SELECT run_uuid, value FROM tags WHERE key = 'mlflow.parentRunId'").fetchall()
    (parent,) = [run for run, name, _ in runs if name == "eight"]
    assert {status for _, _, status in runs} == {"FINISHED"} and len(runs) == 9
    assert len(parents) == 8 and {value for _, value in parents} == {parent}


def check_places(desk, standings, nodes):
    """Never more at a time than asked for, each on a GPU that nobody else had at that time."""
    from mcl_lab.launch.ledger import Ledger

    spans = []
    for run in standings:
        (attempt,) = Ledger(desk.folder / "runs/sweeps/eight/jobs" / run["job"]).runs[0].attempts
        spans.append((attempt.started_ms, attempt.ended_ms, nodes[run["job"]], attempt.gpu))
    assert all(gpu in ("0", "1") for *_, gpu in spans)
    for began, *_ in spans:
        at_once = [place for start, stop, *place in spans if start <= began < stop]
        assert len(at_once) <= AT_A_TIME
        assert len({tuple(place) for place in at_once}) == len(at_once)
