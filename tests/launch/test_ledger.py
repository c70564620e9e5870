"""The ledger: what each run's history comes to, and that the file keeps it."""

import copy
import json

import pytest

from mcl_lab.errors import RunFailed
from mcl_lab.host.files import write_json
from mcl_lab.launch.ledger import Ledger
from mcl_lab.launch.ledger_run import Attempt, LedgerRun
from mcl_lab.launch.queue import Job, QueueSilent
from mcl_lab.launch.standing import Seen

NOTHING = Seen(alive=False, state=None, message="", started_ms=0, epochs=0, accuracies=[])
STARTED = Attempt(pid=1, process_start="1", host="here", gpu=None, started_ms=5)


def ended(status, words="", gpu=None):
    return Attempt(1, "1", "here", gpu, 5, 6, status, words)


def make_run(name="r", *attempts):
    return LedgerRun(f"runs/{name}", name, "p", "lmcl", "digits", 0, 12, True, f"logs/{name}.log", list(attempts))


def make_ledger(folder, seen=NOTHING):
    return Ledger(folder, observe=lambda run: seen)


@pytest.mark.parametrize(
    ("attempts", "seen", "state", "detail"),
    [
        ([], {}, "waiting", ""),
        ([], {"state": "interrupted", "epochs": 3}, "waiting", "stopped after epoch 3"),
        ([], {"state": "finished"}, "finished", ""),
        ([ended(1, "boom")], {"state": "finished"}, "finished", ""),  # trained alone since
        ([STARTED], {"alive": True}, "running", ""),
        ([Attempt(1, "1", "here", "3", 5)], {"alive": True}, "running", "on GPU 3"),
        ([ended(0, gpu="3")], {"alive": True}, "running", ""),  # by somebody else
        ([], {"alive": True, "state": "failed", "message": "NaN"}, "running", ""),  # goes on with it
        ([STARTED], {}, "lost", "its process vanished;"),
        ([STARTED], {"state": "running", "epochs": 2}, "lost", "vanished after epoch 2"),
        ([], {"state": "running", "epochs": 2}, "lost", "vanished after epoch 2"),
        ([ended(1, "loss is NaN")], {"state": "failed", "message": "NaN"}, "failed", "loss is NaN"),
        ([ended(2, "data.root: no")], {}, "failed", "data.root: no"),
        ([ended(3)], {}, "failed", "exit status 3"),
        ([ended(-9, "killed by SIGKILL")], {"state": "running"}, "failed", "killed by SIGKILL"),
        ([], {"state": "failed", "message": "NaN"}, "failed", "NaN"),
        ([ended(143)], {"state": "interrupted", "epochs": 1}, "waiting", "stopped after epoch 1"),
        ([ended(-15)], {}, "waiting", "stopped"),
        ([ended(130)], {}, "waiting", "stopped"),
        ([ended(140)], {}, "waiting", "stopped"),  # SIGUSR2
        ([STARTED], {"state": "interrupted", "epochs": 1}, "waiting", "stopped after epoch 1"),  # its launcher was gone
        ([STARTED], {"state": "failed", "message": "NaN"}, "failed", "NaN"),
        ([ended(0)], {}, "waiting", ""),
        # trained on alone since
        (
            [ended(1, "boom")],
            {"state": "interrupted", "epochs": 3, "started_ms": 9},
            "waiting",
            "stopped after epoch 3",
        ),
        ([ended(143)], {"state": "failed", "message": "NaN", "started_ms": 9}, "failed", "NaN"),
        ([ended(143)], {"state": "running", "started_ms": 9}, "lost", "vanished"),
        ([ended(1, "boom"), STARTED], {"alive": True, "state": "failed"}, "running", ""),
        ([ended(1, "boom"), ended(143)], {"epochs": 4}, "waiting", "stopped after epoch 4"),
    ],
)
def test_standing(attempts, seen, state, detail, tmp_path):
    standing = make_ledger(tmp_path, NOTHING._replace(**seen)).standing(make_run("r", *attempts))
    assert standing.state == state
    assert detail in standing.detail if detail else standing.detail == ""


SUBMITTED = Attempt(0, None, "", None, 5, job="7_3")
BEGAN = Attempt(1, "1", "n1", "0", 5, job="7_3")


def in_job(status, words=""):
    return Attempt(1, "1", "n1", "0", 5, 6, status, words, job="7_3")


def job(state, reason="None", nodes=""):
    return Job("8", state, reason, nodes)


@pytest.mark.parametrize(
    ("attempt", "seen", "said", "state", "detail"),
    [
        (SUBMITTED, {}, job("PENDING", "Resources"), "queued", "job 7_3: Resources"),
        (SUBMITTED, {}, job("PENDING"), "queued", "job 7_3"),
        (in_job(140), {"state": "interrupted", "epochs": 2}, job("PENDING", "BeginTime"), "queued", "after epoch 2"),
        (BEGAN, {"alive": True, "holder": "8"}, job("RUNNING", nodes="n1"), "running", "job 7_3 on n1, GPU 0"),
        (SUBMITTED, {}, job("CONFIGURING", nodes="n1"), "running", "job 7_3 on n1"),
        (in_job(-9, "killed by SIGKILL"), {"state": "running"}, job("RUNNING", nodes="n1"), "running", "job 7_3"),
        (in_job(1, "boom"), {"state": "failed"}, job("RUNNING"), "failed", "boom"),  # its neighbours go on
        (in_job(0), {"state": "finished"}, job("RUNNING"), "finished", "job 7_3"),
        (in_job(0), {"state": "finished"}, None, "finished", "job 7_3"),
        (in_job(1, "boom"), {"state": "failed"}, job("FAILED"), "failed", "boom"),
        (in_job(1, "boom"), {"state": "failed"}, job("CANCELLED"), "failed", "boom"),
        (in_job(1, "boom"), {"alive": True, "holder": "8", "state": "failed"}, job("FAILED"), "failed", "boom"),
        (in_job(-11, "killed by SIGSEGV"), {"state": "running"}, job("RUNNING"), "failed", "killed by SIGSEGV"),
        (in_job(-9, "killed by SIGKILL"), {"state": "running"}, job("FAILED"), "failed", "killed by SIGKILL"),
        (in_job(143), {"state": "interrupted", "epochs": 1}, job("CANCELLED"), "cancelled", "job 7_3 after epoch 1"),
        (BEGAN, {"state": "running", "epochs": 1}, job("CANCELLED"), "cancelled", "job 7_3 after epoch 1"),
        (SUBMITTED, {}, job("CANCELLED"), "cancelled", "job 7_3"),
        (SUBMITTED, {}, job("UNRECORDED"), "cancelled", "job 7_3"),
        (BEGAN, {"state": "running"}, job("UNRECORDED"), "lost", "does not know job 7_3"),
        (SUBMITTED, {}, None, "lost", "does not know job 7_3"),
        (in_job(140), {"state": "interrupted"}, job("FAILED"), "failed", "not requeued any more"),
        (BEGAN, {"state": "running", "epochs": 4}, job("TIMEOUT"), "failed", "TIMEOUT after epoch 4"),
        (BEGAN, {"state": "running"}, job("NODE_FAIL"), "failed", "NODE_FAIL"),
        (BEGAN, {"state": "running"}, job("COMPLETED"), "lost", "COMPLETED"),
        (SUBMITTED, {}, job("FAILED"), "failed", "7_3_0_log.err"),
        # The heartbeat of a lock outlives the job by a minute, but not SLURM's word; somebody else's lock is another matter.
        (BEGAN, {"alive": True, "holder": "8", "state": "running"}, job("CANCELLED"), "cancelled", "job 7_3"),
        (BEGAN, {"alive": True, "holder": None, "state": "running"}, job("CANCELLED"), "running", ""),
        (SUBMITTED, {"alive": True, "holder": "99"}, None, "running", ""),
        (SUBMITTED, {}, QueueSilent("SLURM does not answer"), "unknown", "job 7_3: SLURM does not answer"),
        (BEGAN, {"alive": True, "holder": "8"}, QueueSilent("SLURM does not answer"), "running", "job 7_3"),
        (in_job(0), {"state": "finished"}, QueueSilent("SLURM does not answer"), "finished", "job 7_3"),
    ],
)
def test_standing_of_a_job(attempt, seen, said, state, detail, tmp_path):
    def ask(names):
        assert names == ["7_3"]
        if isinstance(said, QueueSilent):
            raise said
        return {"7_3": said} if said else {}

    ledger = Ledger(tmp_path, observe=lambda run: NOTHING._replace(**seen), ask=ask)
    (run,) = ledger.enter([make_run("r", copy.deepcopy(attempt))])
    standing = ledger.standing(run)
    assert standing.state == state
    assert detail in standing.detail if detail else standing.detail == ""


def test_a_job_tells_of_its_runs_in_a_ledger_of_its_own(tmp_path):
    """Which has every start of the run; the sweep's ledger keeps those of earlier jobs."""
    ledger = Ledger(
        tmp_path,
        observe=lambda run: NOTHING,
        ask=lambda names: {"7_3": job("RUNNING")},
    )
    before = Attempt(1, "1", "n1", "0", 1, 2, 1, "boom", job="6_0")
    (run,) = ledger.enter([make_run("r", before, copy.deepcopy(SUBMITTED))])
    assert ledger.standing(run).state == "running" and run.attempts == [before, SUBMITTED]

    own = make_ledger(tmp_path / "jobs" / "7_3")
    own.folder.mkdir(parents=True)
    first, second = Attempt(5, "5", "n1", "1", 6, 7, 140, "stopped"), Attempt(6, "6", "n2", "0", 8)
    own.enter([make_run("other", ended(0)), make_run("r", first, second)])
    assert "GPU 0" in ledger.standing(run).detail
    assert [attempt.pid for attempt in run.attempts] == [1, 5, 6]
    assert {attempt.job for attempt in run.attempts[1:]} == {"7_3"}
    ledger.save()
    assert make_ledger(tmp_path).runs == [run]


def test_runs_and_attempts_outlive_the_process(tmp_path):
    first = make_ledger(tmp_path)
    a, b = first.enter([make_run("a"), make_run("b")])
    a.attempts.append(ended(-9, "killed by SIGKILL", gpu="1"))
    first.save()
    second = make_ledger(tmp_path)
    assert second.runs == [a, b]
    # started again with other settings that decide no numbers, and with one run more
    again = make_run("a")
    again.uses_gpu = False
    named = second.enter([make_run("c"), again])
    assert [run.name for run in named] == ["c", "a"] and [run.name for run in second.runs] == ["a", "b", "c"]
    assert named[1].attempts == a.attempts and named[1].uses_gpu is False
    assert make_ledger(tmp_path).runs == second.runs
    assert json.loads((tmp_path / "ledger.json").read_text())["runs"][0]["run_key"] == "a"


def test_entering_twice_changes_nothing(tmp_path):
    ledger = make_ledger(tmp_path)
    runs = ledger.enter([make_run("a"), make_run("b")])
    before = copy.deepcopy(ledger.runs)
    assert ledger.enter(copy.deepcopy(runs)) == runs and ledger.runs == before


def test_a_full_disk_is_told_once_it_matters(tmp_path, monkeypatch):
    full = True

    def write(path, value):
        if full:
            raise OSError(28, "No space left on device")
        write_json(path, value)

    monkeypatch.setattr("mcl_lab.launch.ledger.write_json", write)
    ledger = make_ledger(tmp_path)
    ledger.runs = [make_run("a")]
    ledger.try_to_save()
    with pytest.raises(OSError, match="No space"):
        ledger.save()
    full = False
    ledger.try_to_save()
    assert make_ledger(tmp_path).runs == ledger.runs


def test_a_ledger_of_newer_code_is_left_alone(tmp_path):
    write_json(tmp_path / "ledger.json", {"format": 3, "runs": []})
    with pytest.raises(RunFailed, match="newer"):
        make_ledger(tmp_path)


def test_slurm_is_asked_once_about_all_jobs_also_those_that_it_forgot(tmp_path):
    asked = []

    def ask(names):
        asked.append(sorted(names))
        return {}

    ledger = Ledger(tmp_path, observe=lambda run: NOTHING, ask=ask)
    jobs = [f"7_{number}" for number in range(20)]
    runs = ledger.enter([make_run(job, Attempt(0, None, "", None, 5, job=job)) for job in jobs])
    assert {now.state for _, now in ledger.standings(runs)} == {"lost"}
    assert asked == [sorted(jobs)]
    runs[0].attempts.append(Attempt(0, None, "", None, 6, job="8"))
    ledger.standings(runs)
    assert len(asked) == 2 and "8" in asked[1]
