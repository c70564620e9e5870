"""trainer.compile: the same training by torch.compile, or as it is written where there is no compiler."""

import json
import os
import shutil

import pytest
from training_runs import LMCL, end, result, start

TWO_STAGES = [f"pair.peers.{peer}.{setting}" for peer in "ab" for setting in ("blocks=[1,1]", "widths=[4,8]")]
STEPS = [*LMCL, *TWO_STAGES, "tracking=none", "trainer.max_steps=3"]
COMPILED = [*STEPS, "trainer.compile=true"]


def train(folder, name, *words, **environment):
    """A run's (mean loss over its steps, checksum of the final weights, warnings)."""
    ended = end(start([*words, f"hydra.run.dir={name}"], folder, env=os.environ | environment), timeout=600)
    assert ended.status == 0, ended
    (epoch,) = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
    return epoch["metrics"]["train/loss"], result(folder / name)["weights"], ended.err


@pytest.mark.full
def test_where_there_is_no_compiler_one_line_says_so_and_nothing_else_differs(tmp_path):
    loss, weights, _ = train(tmp_path, "plain", *STEPS)
    same = train(tmp_path, "none", *COMPILED, CXX="/nonexistent")
    assert same[:2] == (loss, weights)
    assert same[2].startswith("the steps are not compiled: ") and same[2].count("\n") == 1


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_steps_do_the_same_and_to_the_same_bits_each_time(tmp_path):
    plain = train(tmp_path, "plain", *STEPS, "trainer.max_steps=1")
    loss, weights, warned = train(tmp_path, "one", *COMPILED, "trainer.max_steps=1")
    assert loss == pytest.approx(plain[0], rel=1e-5) and warned == ""
    assert weights != plain[1]  # it was compiled: it rounds otherwise
    assert train(tmp_path, "once", *COMPILED) == train(tmp_path, "again", *COMPILED)
