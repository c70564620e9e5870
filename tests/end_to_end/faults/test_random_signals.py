"""SIGKILL, SIGTERM, SIGINT and SIGUSR2 at random moments, each time the same command again."""

import pytest
from signals_drill import drill
from training_runs import BASELINE, LMCL

MORE_OFTEN = "trainer.checkpoint_steps=5"
THREE = [*LMCL, "+network@pair.peers.c=resnet20", "pair.peers.c.widths=[4,4]", "pair.peers.c.blocks=[1,2]"]
HETEROGENEOUS = [*LMCL, "pair=resnet8_resnet20", "pair.peers.b.widths=[4,4,4]"]
RUNS = {
    "float32": LMCL,
    "longer": [*LMCL, "trainer.epochs=4"],
    "bf16": [*LMCL, "trainer.precision=bf16"],
    "heterogeneous": HETEROGENEOUS,
    "heterogeneous bf16": [*HETEROGENEOUS, "trainer.precision=bf16"],
    "three peers": THREE,
    "adamw": [*LMCL, "optimizer=adamw"],
    "baseline": [*BASELINE, "trainer.epochs=20"],
}
full, soak = pytest.mark.full, pytest.mark.soak


@pytest.mark.parametrize(("run", "signals", "extra"), [
    ("float32", 5, [MORE_OFTEN]),
    pytest.param("bf16", 7, [], marks=full),  # checkpoints at the epochs' ends alone
    pytest.param("heterogeneous", 8, [MORE_OFTEN], marks=full),
    *[pytest.param(run, 60, [MORE_OFTEN], marks=soak) for run in RUNS],
])  # fmt: skip
def test_struck_at_random_moments(run, signals, extra, undisturbed, empty_store, tmp_path):
    whole = undisturbed(*RUNS[run], "tracking=none")
    struck = drill([*RUNS[run], *extra], signals, whole=whole, empty_store=empty_store, folder=tmp_path)
    assert struck.total() == signals
