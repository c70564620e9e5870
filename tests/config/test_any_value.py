"""Whatever stands at any key: the command line is refused as wrong input, or the task is called; nothing else."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcl_lab import cli
from mcl_lab.config.compose import compose
from mcl_lab.config.plain import leaves, plain

KEYS = sorted(
    {key.rsplit(".", depth)[0] for key, _ in leaves(plain(compose([]))) for depth in range(3)}
    | {"pair.peers.c", "loss.new", "hydra.run", "hydra.run.dir", "hydra.job.name", "hydra.sweeper", "hydra.callbacks"}
    | {"hydra.launcher", "hydra.launcher.jobs", "hydra.launcher.gpus", "hydra.sweep", "hydra.sweep.dir", "hydra.mode"}
)
VALUES = [
    "", "null", "true", "-1", "0", "1", "2.5", "1e400", "nan", "word", "'quoted word'", "[]", "[1]", "[null]",
    "[[1,2],3]", "[{_target_: os.system}]", "{}", "{a: 1}", "{_target_: torch.nn.Linear}", "{_target_: 3}", "???",
    "'${seed}'", "${loss}", "${oc.env:HOME}", "${nowhere:1}", "'${'", "9" * 400, "é/../x", "a,b",
    "{_target_: torch.optim.SGD, lr: [{}]}",
]  # fmt: skip


@pytest.mark.full
@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefix=st.sampled_from(["", "+", "++", "~"]), key=st.sampled_from(KEYS), value=st.sampled_from(VALUES))
def test_refused_or_called(calls, empty_folder, capsys, prefix, key, value):
    before = len(calls)
    status = cli.main(["task._target_=stand_in_tasks.record", "hydra.run.dir=runs/x", f"{prefix}{key}={value}"])
    error = capsys.readouterr().err
    if status == 2:
        assert error.startswith("mcl_lab: error: ") and error.count("\n") == 1 and len(calls) == before
    else:
        assert status == 0 and error == "" and len(calls) == before + 1
