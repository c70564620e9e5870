"""Every loss option and every network family computes what it did when traces.json was written."""

import json
from pathlib import Path

import pytest
from traces import CASES, trace

STORED = json.loads(Path(__file__).with_name("traces.json").read_text())


def test_every_case_is_stored():
    assert STORED.keys() == CASES.keys()


@pytest.mark.parametrize("case", CASES)
def test_the_same_numbers(case):
    """Processors differ by up to 1e-12 in these cases, and by float32's rounding in the values that are drawn."""
    now, stored = trace(CASES[case]), STORED[case]
    assert now.keys() == stored.keys()
    drawn = [name for name in stored if name.startswith("drawn")]
    assert {name: now.pop(name) for name in drawn} == pytest.approx({name: stored[name] for name in drawn}, rel=1e-6)
    assert now == pytest.approx({name: stored[name] for name in now}, rel=1e-10, abs=0)
