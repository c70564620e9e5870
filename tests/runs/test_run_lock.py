import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mcl_lab.errors import RunFailed
from mcl_lab.host.files import exclusive
from mcl_lab.host.processes import ProcessId, this_host
from mcl_lab.runs.lock import RunLock, heartbeat_age, is_held

ROOT = Path(__file__).parents[2]


def left_behind(folder: Path, *, age: float = 0, **changes) -> Path:
    """A lock that this very process would have written, with changes."""
    with RunLock(folder) as lock:
        owner = json.loads(lock.path.read_text())
    lock.path.write_text(json.dumps(owner | {"token": "another"} | changes) + "\n")
    os.utime(lock.path, (time.time() - age,) * 2)
    return lock.path


def owner_of(path: Path) -> tuple:
    owner = json.loads(path.read_text())
    return owner["host"], owner["pid"]


def test_it_is_there_during_the_run_and_gone_after(tmp_path):
    with RunLock(tmp_path) as lock:
        assert owner_of(lock.path) == (this_host(), os.getpid())
        assert is_held(tmp_path)
        lock.check()
    assert os.listdir(tmp_path) == []
    assert not is_held(tmp_path)


def test_it_is_gone_after_a_run_that_raised(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_a_living_process_of_this_host_is_refused_by_name(tmp_path):
    with RunLock(tmp_path) as lock:
        before = lock.path.read_text()
        with pytest.raises(RunFailed) as error, RunLock(tmp_path):
            pass
        for word in (str(os.getpid()), this_host(), str(tmp_path)):
            assert word in str(error.value)
        assert lock.path.read_text() == before


def test_a_killed_process_is_replaced_at_once_even_as_a_zombie(tmp_path):
    code = (
        f"import time; from mcl_lab.runs.lock import RunLock; lock = RunLock({str(tmp_path)!r});"
        "lock.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunFailed, match=str(process.pid)), RunLock(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried
        assert not is_held(tmp_path)
        with RunLock(tmp_path) as lock:
            assert owner_of(lock.path)[1] == os.getpid()
    finally:
        process.kill()
        process.communicate()


def test_a_number_that_now_belongs_to_another_process_holds_nothing(tmp_path):
    boot = ProcessId.this().start.partition(":")[0]
    path = left_behind(tmp_path, process_start=f"{boot}:1")
    assert not is_held(tmp_path)
    with RunLock(tmp_path):
        assert owner_of(path) == (this_host(), os.getpid())


def test_a_lock_half_written_holds_nothing(tmp_path):
    path = left_behind(tmp_path)
    path.write_text(path.read_text()[:20])
    with RunLock(tmp_path):
        assert owner_of(path)[1] == os.getpid()


def test_another_host_with_an_old_heartbeat_is_replaced_at_once(tmp_path, capsys):
    path = left_behind(tmp_path, host="elsewhere", age=61)
    assert not is_held(tmp_path)
    with RunLock(tmp_path):
        assert owner_of(path)[0] == this_host()
    assert capsys.readouterr().err == ""


def test_another_host_with_a_young_heartbeat_is_waited_for_in_one_line(tmp_path, capsys):
    path = left_behind(tmp_path, host="elsewhere", pid=4711)
    assert is_held(tmp_path)
    start = time.monotonic()
    with RunLock(tmp_path, stale_after=1.0):
        assert time.monotonic() - start >= 0.9
        assert owner_of(path)[0] == this_host()
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "elsewhere" in line and "4711" in line and str(tmp_path) in line


def test_waiting_ends_as_soon_as_the_other_host_lets_go(tmp_path, capsys):
    path = left_behind(tmp_path, host="elsewhere")
    remover = subprocess.Popen(["sh", "-c", f"sleep 0.3; rm {path}"])
    start = time.monotonic()
    with RunLock(tmp_path, stale_after=3.0):
        assert time.monotonic() - start < 2.5
    remover.wait()
    assert "waiting" in capsys.readouterr().err


def test_a_heartbeat_keeps_another_host_waiting(tmp_path):
    with RunLock(tmp_path, heartbeat=0.05) as lock:
        for _ in range(3):
            os.utime(lock.path, (0, 0))
            deadline = time.monotonic() + 5
            while heartbeat_age(tmp_path) > 60 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert heartbeat_age(tmp_path) < 5


@pytest.mark.parametrize(("step", "at_once"), [("0", True), ("1", False)])
def test_a_requeued_slurm_task_goes_on_at_once_on_another_host(tmp_path, monkeypatch, capsys, step, at_once):
    task = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}
    for name, value in task.items():
        monkeypatch.setenv(name, value)
    path = left_behind(tmp_path, host="elsewhere")
    monkeypatch.setenv("SLURM_STEP_ID", step)  # another step of the same job may be running beside this one
    with RunLock(tmp_path, stale_after=0.5):
        assert owner_of(path)[0] == this_host()
    assert (capsys.readouterr().err == "") is at_once


def test_who_lost_the_lock_is_told_and_leaves_it_alone(tmp_path):
    with RunLock(tmp_path, heartbeat=0.02) as lock:
        taken = json.loads(lock.path.read_text()) | {"host": "elsewhere", "token": "another"}
        lock.path.write_text(json.dumps(taken))
        deadline = time.monotonic() + 5
        with pytest.raises(RunFailed, match="took this run over"):
            while time.monotonic() < deadline:
                lock.check()
                time.sleep(0.01)
    assert json.loads(lock.path.read_text()) == taken


def race(folder: str, barrier, results) -> None:
    """One contender: every round is a stale lock that all of them go for at once."""
    for attempt in range(15):
        barrier.wait()
        try:
            with RunLock(Path(folder, str(attempt))):
                barrier.wait()  # the winner holds it until all have tried
            results.put((attempt, True))
        except RunFailed:
            barrier.wait()
            results.put((attempt, False))


def test_of_eight_processes_racing_for_a_stale_lock_one_wins(tmp_path):
    for attempt in range(15):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        left_behind(folder, process_start="another-boot:1")
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(8, timeout=30), context.Queue()
    contenders = [context.Process(target=race, args=(str(tmp_path), barrier, results)) for _ in range(8)]
    for contender in contenders:
        contender.start()
    outcomes = [results.get(timeout=40) for _ in range(8 * 15)]
    for contender in contenders:
        contender.join(30)
    for attempt in range(15):
        assert sorted(won for number, won in outcomes if number == attempt) == [False] * 7 + [True]
        assert os.listdir(tmp_path / str(attempt)) == []


def test_a_lock_file_deleted_under_a_waiting_process_is_not_mistaken_for_the_lock(tmp_path):
    path = tmp_path / "run.lock"
    entered, leave = threading.Event(), threading.Event()

    def visit() -> None:
        with RunLock(tmp_path):
            entered.set()
            leave.wait(30)

    visitor = threading.Thread(target=visit)
    with exclusive(path):  # as by a holder that is about to let go
        visitor.start()
        assert not entered.wait(0.3)
        path.unlink()
    assert entered.wait(30)
    assert owner_of(path) == (this_host(), os.getpid())
    leave.set()
    visitor.join()
    assert os.listdir(tmp_path) == []
