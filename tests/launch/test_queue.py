"""What SLURM's own words about jobs come to, as squeue and sacct of 22.05 print them."""

import pytest

from mcl_lab.launch.queue import Job, QueueSilent, ask

SQUEUE = """\
7_1|7|PENDING|JobArrayTaskLimit|
7_2|7|PENDING|JobArrayTaskLimit|
7_0|8|RUNNING|None|n1
9|9|CANCELLED|Nodes required for job are DOWN, DRAINED or reserved|
6_0|6|COMPLETED|None|n2
"""
SACCT = """\
5_0|12|CANCELLED by 1000|None|n2
5_[1-2,4,6-7%3]|5|CANCELLED by 0|None|None assigned
4|4|TIMEOUT|None|n[1-2]
"""


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """commands(squeue, sacct): programs of that name that print this, or fail for None."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def make(**printed):
        for name, text in printed.items():
            (tmp_path / f"{name}.txt").write_text(text or "")
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\ncat {tmp_path}/{name}.txt\nexit {int(text is None)}\n")
            path.chmod(0o755)

    return make


def test_the_queue_knows_first_and_accounting_what_is_gone(commands):
    commands(squeue=SQUEUE, sacct=SACCT)
    jobs = ask(["7_0", "7_1", "9", "5_0", "5_1", "5_4", "5_7", "4"])
    assert jobs["7_0"] == Job("8", "RUNNING", "None", "n1") and jobs["7_0"].active
    assert jobs["7_1"].pending and jobs["7_1"].reason == "JobArrayTaskLimit"
    assert jobs["9"].cancelled
    assert jobs["5_0"] == Job("12", "CANCELLED", "None", "n2")
    assert all(jobs[name].cancelled and jobs[name].nodes == "" for name in ("5_1", "5_4", "5_7"))
    assert jobs["4"] == Job("4", "TIMEOUT", "None", "n[1-2]")
    assert not any(job.unrecorded for job in jobs.values())


def test_an_element_that_left_no_record_was_cancelled_before_it_began(commands):
    commands(squeue=SQUEUE, sacct=SACCT)
    jobs = ask(["5_3", "7_0"])
    assert jobs["5_3"].cancelled and jobs["5_3"].unrecorded


def test_without_accounting_what_is_gone_is_not_known(commands):
    commands(squeue=SQUEUE, sacct=None)
    assert list(ask(["5_3", "7_0"])) == ["7_0"]


def test_a_queue_that_does_not_answer_says_nothing_about_jobs(commands):
    commands(squeue=None, sacct=SACCT)
    with pytest.raises(QueueSilent, match="does not answer"):
        ask(["5_0"])


def test_no_slurm_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QueueSilent, match="not installed"):
        ask(["5_0"])
    assert ask([]) == {}
