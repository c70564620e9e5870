"""The local launcher with small commands in real processes: places, GPUs, failures, stops, and what it finds left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mcl_lab.errors import InputError, Interrupted
from mcl_lab.host.processes import ProcessId, this_host
from mcl_lab.launch.ledger import Ledger
from mcl_lab.launch.ledger_run import Attempt, LedgerRun
from mcl_lab.launch.local import LocalLauncher
from mcl_lab.launch.standing import Seen

# A run: notes when it began and ended and what it was given, takes a while, ends as it is told.
SCRIPT = """
import json, os, signal, sys, time
folder, seconds, status = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
def stop(number, _):
    open(folder + "/told", "a").write(signal.Signals(number).name)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
began = time.time()
names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS", "EXTRA")
open(folder + "/began", "w").close()
time.sleep(seconds)
if status < 0:
    os.kill(os.getpid(), -status)
if status:
    if status == 3:
        open(os.environ["MCL_LAB_LAST_WORDS"], "w").write("it went wrong")
    print("some words"); print("more of them"); print()
    sys.exit(status)
given = {name: os.environ.get(name) for name in names}
json.dump({"began": began, "ended": time.time(), **given}, open(folder + "/done", "w"))
"""


class Sweep:
    def __init__(self, folder: Path):
        self.folder = folder
        self.ledger = Ledger(folder, observe=self.observe)
        self.seconds, self.status = {}, {}

    def observe(self, run):
        folder, latest = Path(run.folder), run.latest
        alive = latest is not None and latest.goes_on
        return Seen(alive, "finished" if (folder / "done").exists() else None, "", 0, 0, [])

    def runs(self, count, uses_gpu=True):
        names = [f"r{number}" for number in range(count)]
        return self.ledger.enter(
            [
                LedgerRun(
                    str(self.folder / name), name, "p", "l", "d", 0, 1, uses_gpu, str(self.folder / f"{name}.log")
                )
                for name in names
            ]
        )

    def command(self, run):
        Path(run.folder).mkdir(exist_ok=True)
        return [
            sys.executable, "-c", SCRIPT, run.folder, str(self.seconds.get(run.name, 0.3)),
            str(self.status.get(run.name, 0)),
        ]  # fmt: skip

    def launch(self, launcher, runs, show=lambda: None, prepare=None):
        launcher.launch(
            self.ledger,
            runs,
            prepare=prepare or self.command,
            environment=os.environ | {"EXTRA": "more"},
            show=show,
        )

    def done(self, run):
        return json.loads((Path(run.folder) / "done").read_text())

    def states(self, runs):
        return [self.ledger.standing(run).state for run in runs]

    def most_at_once(self, runs):
        times = [(self.done(run)["began"], 1) for run in runs] + [(self.done(run)["ended"], -1) for run in runs]
        running = most = 0
        for _, step in sorted(times):
            running += step
            most = max(most, running)
        return most


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return Sweep(tmp_path)


def after(seconds, action):
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def wait_for(path, seconds=30):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def test_so_many_at_a_time_all_to_their_end(sweep):
    runs = sweep.runs(5, uses_gpu=False)
    sweep.launch(LocalLauncher(jobs=2), runs)
    assert sweep.states(runs) == ["finished"] * 5
    assert sweep.most_at_once(runs) == 2
    assert all(sweep.done(run)["CUDA_VISIBLE_DEVICES"] == "" for run in runs)  # a run on the CPU touches no GPU
    assert all(sweep.done(run)["EXTRA"] == "more" for run in runs)
    assert all(run.latest.exit_status == 0 and run.latest.ended_ms >= run.latest.started_ms for run in runs)


def test_gpus_are_shared_out(sweep):
    sweep.seconds = dict.fromkeys(["r0", "r1", "r2", "r3"], 0.8)
    runs = sweep.runs(4)
    sweep.launch(LocalLauncher(gpus=[4, 7], runs_per_gpu=2), runs)
    assert [sweep.done(run)["CUDA_VISIBLE_DEVICES"] for run in runs] == ["4", "7", "4", "7"]
    assert {sweep.done(run)["CUDA_DEVICE_ORDER"] for run in runs} == {"PCI_BUS_ID"}  # by which nvidia-smi numbers them
    assert [run.latest.gpu for run in runs] == ["4", "7", "4", "7"]


def test_visible_gpus_and_one_run_on_each(sweep, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-abc")
    runs = sweep.runs(3)
    sweep.launch(LocalLauncher(), runs)
    assert {sweep.done(run)["CUDA_VISIBLE_DEVICES"] for run in runs} == {"1", "GPU-abc"}
    assert {sweep.done(run)["CUDA_DEVICE_ORDER"] for run in runs} == {
        None
    }  # whoever numbered them had an order in mind
    assert sweep.most_at_once(runs) <= 2


def test_cores_are_shared_out(sweep, monkeypatch):
    monkeypatch.setattr("mcl_lab.launch.local.cpu_cores", lambda: 12)
    runs = sweep.runs(1, uses_gpu=False)
    sweep.launch(LocalLauncher(jobs=3), runs)
    assert sweep.done(runs[0])["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # somebody's own choice
    (run,) = sweep.runs(2, uses_gpu=False)[1:]
    sweep.launch(LocalLauncher(jobs=3), [run])
    assert sweep.done(run)["OMP_NUM_THREADS"] == "1"


def test_a_failure_stops_no_other_and_is_tried_again(sweep):
    sweep.status = {"r0": 3, "r1": -9, "r3": 4}
    runs = sweep.runs(4, uses_gpu=False)
    sweep.launch(LocalLauncher(jobs=4), runs)
    standings = [sweep.ledger.standing(run) for run in runs]
    assert [standing.state for standing in standings] == ["failed", "failed", "finished", "failed"]
    # By its own last words, by its signal, and of one that left none by its status and what it printed.
    told = ["it went wrong", "killed by SIGKILL", "", "exit status 4: more of them"]
    assert [standing.detail for standing in standings] == told
    assert [run.latest.exit_status for run in runs] == [3, -9, 0, 4]
    assert not list(sweep.folder.glob("*.words"))

    sweep.status = {}
    sweep.launch(LocalLauncher(jobs=4), runs)
    assert sweep.states(runs) == ["finished"] * 4
    assert [len(run.attempts) for run in runs] == [2, 2, 1, 2]  # what was finished was left alone
    assert (sweep.folder / "r0.log").read_text().count("$ ") == 2


def test_a_run_that_cannot_be_started(sweep):
    def prepare(run):
        if run.name == "r0":
            raise OSError(28, "No space left on device")
        if run.name == "r2":
            raise InputError("hydra.run.dir", "is no folder")
        return ["/no/such/program"] if run.name == "r1" else sweep.command(run)

    runs = sweep.runs(4, uses_gpu=False)
    sweep.launch(LocalLauncher(jobs=1), runs, prepare=prepare)
    standings = [sweep.ledger.standing(run) for run in runs]
    assert [standing.state for standing in standings] == ["failed", "failed", "failed", "finished"]
    assert "hydra.run.dir: is no folder" in standings[2].detail
    assert "No space left" in standings[0].detail and "/no/such/program" in standings[1].detail


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2])
def test_a_stop_lets_the_runs_stop_and_the_next_launch_goes_on(sweep, number):
    sweep.seconds = {"r0": 60, "r1": 60}
    runs = sweep.runs(3, uses_gpu=False)

    def stop_when_running():
        if all((Path(run.folder) / "began").exists() for run in runs[:2]) and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # a shell that is hung up, and the kernel, send one each

    sent = []
    with pytest.raises(Interrupted) as caught:
        sweep.launch(LocalLauncher(jobs=2), runs, show=stop_when_running)
    assert caught.value.status == 128 + number
    assert [(Path(run.folder) / "told").read_text() for run in runs[:2]] == ["SIGTERM"] * 2  # once each
    assert sweep.states(runs) == ["waiting"] * 3 and not runs[2].attempts
    sweep.seconds = {}
    sweep.launch(LocalLauncher(jobs=2), runs)
    assert sweep.states(runs) == ["finished"] * 3


def test_a_second_stop_kills(sweep):
    deaf = (
        "import pathlib, signal, sys, time; signal.signal(15, signal.SIG_IGN); "
        "pathlib.Path(sys.argv[1], 'began').touch(); time.sleep(60)"
    )

    def prepare(run):
        Path(run.folder).mkdir()
        return [sys.executable, "-c", deaf, run.folder]

    (run,) = sweep.runs(1, uses_gpu=False)
    sent = []

    def stop(seconds=1.5):
        if (Path(run.folder) / "began").exists() and (
            not sent or len(sent) < 2 and time.monotonic() > sent[0] + seconds
        ):
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        sweep.launch(LocalLauncher(), [run], show=stop, prepare=prepare)
    assert len(sent) == 2 and run.latest.exit_status == -signal.SIGKILL


def test_a_hangup_that_is_to_be_ignored(sweep):
    """As nohup does, and shells to the jobs that their scripts put into the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        (run,) = sweep.runs(1, uses_gpu=False)
        sweep.launch(LocalLauncher(), [run], show=lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert sweep.states([run]) == ["finished"]


def test_no_run_goes_on_when_the_launcher_breaks_off(sweep):
    sweep.seconds = {"r0": 60}
    (run,) = sweep.runs(1, uses_gpu=False)

    def show():
        if (Path(run.folder) / "began").exists():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sweep.launch(LocalLauncher(), [run], show=show)
    assert (Path(run.folder) / "told").read_text() == "SIGTERM"
    assert run.latest.exit_status == 143 and sweep.states([run]) == ["waiting"]


def test_a_stop_when_all_is_done_is_no_interruption(sweep):
    (run,) = sweep.runs(1, uses_gpu=False)
    done = Path(run.folder) / "done"
    sweep.launch(LocalLauncher(), [run], show=lambda: done.exists() and os.kill(os.getpid(), signal.SIGTERM))
    assert sweep.states([run]) == ["finished"]


def test_a_run_that_was_stopped_from_outside_is_not_started_again(sweep):
    sweep.seconds = {"r0": 60}
    (run,) = sweep.runs(1, uses_gpu=False)
    sent = []

    def stop_it():
        if (Path(run.folder) / "began").exists() and not sent:
            sent.append(os.kill(run.latest.pid, signal.SIGTERM))

    sweep.launch(LocalLauncher(), [run], show=stop_it)
    assert sweep.states([run]) == ["waiting"] and len(run.attempts) == 1


def test_more_runs_at_a_time_than_gpus(sweep):
    sweep.seconds = dict.fromkeys(["r0", "r1", "r2"], 0.8)
    runs = sweep.runs(3)
    sweep.launch(LocalLauncher(gpus=[1, 5], jobs=3), runs)
    assert [sweep.done(run)["CUDA_VISIBLE_DEVICES"] for run in runs] == ["1", "5", "1"]


@pytest.mark.parametrize("gpus", [[], [2, 2], [0, 3]])
def test_gpus_that_may_not_be_used(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(InputError, match="2, 3"):
        LocalLauncher(gpus=gpus)


def left_behind(sweep, run, seconds, gpu=None):
    """A run as a launcher that was killed leaves it: its process goes on, and the ledger knows it."""
    sweep.seconds[run.name] = seconds
    words = {"MCL_LAB_LAST_WORDS": str(Path(run.log).with_suffix(".words"))}
    process = subprocess.Popen(sweep.command(run), start_new_session=True, env=os.environ | words)
    run.attempts.append(Attempt(**ProcessId.of(process.pid).fields(), gpu=gpu, started_ms=1))
    sweep.ledger.save()
    wait_for(Path(run.folder) / "began")
    return process


def test_what_a_killed_launcher_left_running_is_waited_for_in_its_place(sweep):
    runs = sweep.runs(3)
    process = left_behind(sweep, runs[1], 1.5, gpu="7")
    reaper = threading.Thread(target=process.wait)  # as init does for an orphan
    reaper.start()
    sweep.launch(LocalLauncher(gpus=[4, 7]), runs)
    reaper.join()
    assert sweep.states(runs) == ["finished"] * 3
    assert len(runs[1].attempts) == 1  # it was not started again
    first, _, third = map(sweep.done, runs)
    assert first["CUDA_VISIBLE_DEVICES"] == "4"
    assert third["CUDA_VISIBLE_DEVICES"] == "4" and third["began"] >= first["ended"]  # 7 was taken


def test_more_left_behind_than_there_are_places_now(sweep):
    runs = sweep.runs(4)
    processes = [left_behind(sweep, run, 1.5, gpu="0") for run in runs[:2]]
    reapers = [threading.Thread(target=process.wait) for process in processes]
    for reaper in reapers:
        reaper.start()
    sweep.launch(LocalLauncher(gpus=[1]), runs)
    for reaper in reapers:
        reaper.join()
    assert sweep.states(runs) == ["finished"] * 4
    late = [sweep.done(run) for run in runs[2:]]
    assert [done["CUDA_VISIBLE_DEVICES"] for done in late] == ["1", "1"]
    assert sweep.most_at_once(runs[2:]) == 1


def test_a_run_that_somebody_else_began_meanwhile(sweep, monkeypatch):
    """Ours gives way and fails; it is tried again when the other has come to its end."""
    (run,) = sweep.runs(1, uses_gpu=False)
    other = time.monotonic() + 1.5
    seen = sweep.observe
    sweep.ledger._observe = lambda run: seen(run)._replace(
        alive=seen(run).alive or bool(run.attempts) and time.monotonic() < other
    )
    sweep.status = {"r0": 1}

    def show():
        if run.attempts and run.latest.ended_ms:
            sweep.status = {}

    sweep.launch(LocalLauncher(), [run], show=show)
    assert sweep.states([run]) == ["finished"] and [attempt.exit_status for attempt in run.attempts] == [1, 0]


def test_what_a_killed_launcher_left_and_then_died_is_started_again(sweep):
    (run,) = sweep.runs(1, uses_gpu=False)
    process = left_behind(sweep, run, 60)
    assert sweep.states([run]) == ["running"]

    def kill():
        process.kill()
        process.wait()

    timer = after(0.6, kill)
    sweep.seconds = {}
    sweep.launch(LocalLauncher(), [run])
    timer.join()
    assert sweep.states([run]) == ["finished"] and len(run.attempts) == 2


def test_what_a_killed_launcher_left_and_then_failed_says_why(sweep):
    (run,) = sweep.runs(1, uses_gpu=False)
    sweep.status = {"r0": 3}
    process = left_behind(sweep, run, 1.5)
    reaper = threading.Thread(target=process.wait)  # as init does for an orphan
    reaper.start()
    sweep.launch(LocalLauncher(), [run])
    reaper.join()
    standing = sweep.ledger.standing(run)
    assert (standing.state, standing.detail, len(run.attempts)) == ("failed", "it went wrong", 1)
    assert not list(sweep.folder.glob("*.words"))


def test_lost_and_waiting_runs_are_started(sweep):
    lost, fresh = sweep.runs(2, uses_gpu=False)
    lost.attempts.append(Attempt(2**22 + 1, "no such process", this_host(), None, 1))
    assert sweep.states([lost, fresh]) == ["lost", "waiting"]
    sweep.launch(LocalLauncher(jobs=2), [lost, fresh])
    assert sweep.states([lost, fresh]) == ["finished"] * 2
