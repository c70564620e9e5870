import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow_server import MlflowServer

from mcl_lab.host.files import exclusive
from mcl_lab.runs.journal import Journal, read_status
from mcl_lab.runs.layout import RecordFolder
from mcl_lab.tracking.delivery import delivery_error, is_delivered, one_line, ui_hint, wait_delivered
from mcl_lab.tracking.sender import follow, start_sender

ROOT = Path(__file__).parents[2]
SECONDS = 120  # more than anything here takes on a busy machine

# What a training process does for its record, in the words of the public interface.
TRAINING = """
import json, os, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from mcl_lab.tracking.delivery import wait_delivered
from mcl_lab.runs.journal import Journal
from mcl_lab.runs.lock import RunLock
from mcl_lab.tracking.sender import start_sender
folder = Path(sys.argv[1])
with RunLock(folder):
    journal = Journal(folder)
    journal.begin(json.loads(sys.argv[2]))
    journal.status("running")
    sender = start_sender(folder, system={system})
    for epoch in range(1, 4):
        time_ms = 1_700_000_000_000 + epoch
        journal.append({{"epoch": epoch, "step": epoch, "time_ms": time_ms, "metrics": {{"loss": 1 / epoch}}}})
        print("epoch", sender.pid, flush=True)
        {between}
    journal.status("finished")
    delivered = wait_delivered(folder, {wait})
heavy = {{"mlflow", "torch", "sqlalchemy", "pandas", "numpy", "hydra", "omegaconf", "psutil"}} & set(sys.modules)
print(json.dumps([delivered, sorted(heavy)]))
"""


def training(
    folder: Path,
    record: dict,
    *,
    between: str = "pass",
    wait: float = SECONDS,
    system: float | None = None,
    cwd: Path,
    **environment: str,
) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    code = TRAINING.format(root=str(ROOT), between=between, wait=wait, system=system)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), json.dumps(record)],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def soon(condition) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def at_work(folder: Path) -> bool:
    with exclusive(RecordFolder(folder).sender_lock, wait=False) as free:
        return not free


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_training_process_never_imports_mlflow_and_a_scheduler_s_signals_do_not_end_the_sender(
    store, tmp_path, record, stored_runs
):
    run = tmp_path / "run"
    process = training(run, record("sqlite:///mlflow.db"), between="sys.stdin.readline()", system=1, cwd=tmp_path)
    sender = int(process.stdout.readline().split()[1])
    soon(lambda: at_work(run))
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        os.kill(sender, number)
    output, errors = process.communicate(timeout=SECONDS)
    assert json.loads(output.splitlines()[-1]) == [True, []]
    assert (process.returncode, errors) == (0, "")
    (stored,) = stored_runs(store)
    assert (stored["status"], [name for name, *_ in stored["metrics"] if name == "loss"]) == ("FINISHED", ["loss"] * 3)
    assert (run / "sender.log").read_text() == ""
    assert not (tmp_path / "mlruns").exists()


def test_a_training_process_killed_outright_leaves_a_failed_run(store, tmp_path, record, stored_runs):
    run = tmp_path / "run"
    process = training(run, record(store), between="time.sleep(600)", cwd=tmp_path)
    process.stdout.readline()
    soon(lambda: [stored["status"] for stored in stored_runs(store)] == ["RUNNING"])
    process.kill()  # and nobody collects it: a zombie is gone as well
    soon(lambda: is_delivered(run, vanished=True))
    (stored,) = stored_runs(store)
    assert stored["status"] == "FAILED"
    assert str(process.pid) in stored["tags"]["mcl_lab.state"]
    assert stored["metrics"] == [("loss", 1.0, 1_700_000_000_001, 1)]
    soon(lambda: not at_work(run))
    process.communicate()


def kill_senders(journal: Journal, epoch, kills: int, longest: float) -> list[dict]:
    """Record a run whose sender dies by SIGKILL again and again; the epochs recorded."""
    moments = random.Random(kills)
    journal.status("running")
    epochs = []
    for _ in range(kills):
        sender = start_sender(journal.folder)
        deadline = time.monotonic() + moments.uniform(0, longest)
        while time.monotonic() < deadline:
            epochs.append(epoch(len(epochs) + 1))
            journal.append(epochs[-1])
            time.sleep(moments.uniform(0, 0.1))
        sender.kill()
        sender.wait()
    journal.status("finished")
    start_sender(journal.folder).wait(SECONDS)
    return epochs


def test_a_sender_killed_at_work_loses_and_repeats_nothing(store, new_run, stored_runs, epochs_as_points, epoch):
    journal = new_run(store)
    epochs = kill_senders(journal, epoch, kills=1, longest=2.5)
    (run,) = stored_runs(store)
    assert (run["status"], run["metrics"]) == ("FINISHED", epochs_as_points(epochs))
    assert is_delivered(journal.folder)


@pytest.mark.full
def test_many_senders_killed_at_random_lose_and_repeat_nothing(store, new_run, stored_runs, epochs_as_points, epoch):
    journal = new_run(store)
    epochs = kill_senders(journal, epoch, kills=8, longest=4.0)
    (run,) = stored_runs(store)
    assert (run["status"], run["metrics"]) == ("FINISHED", epochs_as_points(epochs))


def test_a_second_sender_waits_and_finds_nothing_to_do(store, new_run, stored_runs, epoch):
    journal = new_run(store)
    journal.status("running")
    journal.append(epoch(1))
    results = []

    def one() -> None:
        results.append(follow(journal.folder, os.getpid(), poll=0.05))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    soon(lambda: stored_runs(store))
    journal.status("finished")
    for thread in threads:
        thread.join(SECONDS)
    assert results == [True, True]
    assert len(stored_runs(store)) == 1


def test_the_sender_of_a_process_that_is_gone_leaves_the_run_to_its_successor(store, new_run, stored_runs):
    journal = new_run(store)
    gone = subprocess.Popen(["true"])
    gone.wait()
    journal.status("running")  # of this process, which resumed the run
    assert follow(journal.folder, gone.pid, poll=0.05)
    assert stored_runs(store) == []


def test_a_store_that_is_away_costs_a_line_and_gets_everything_when_it_is_back(
    tmp_path, new_run, empty_store, stored_runs, epochs_as_points, epoch
):
    (tmp_path / "disk").write_text("not mounted")
    uri = f"sqlite:///{tmp_path}/disk/mlflow.db"
    journal = new_run(uri)
    journal.status("running")
    journal.append(epoch(1))
    options = {"poll": 0.05, "longest_pause": 0.2, "after_end": SECONDS}
    sender = threading.Thread(target=follow, args=(journal.folder, os.getpid()), kwargs=options)
    sender.start()
    soon(lambda: delivery_error(journal.folder))
    journal.append(epoch(2))
    journal.status("finished")
    start = time.monotonic()
    assert not wait_delivered(journal.folder, SECONDS)
    assert time.monotonic() - start < SECONDS / 2  # nobody waits for a store that fails
    assert "disk" in delivery_error(journal.folder)

    (tmp_path / "disk").unlink()
    (tmp_path / "disk").mkdir()
    shutil.copy(empty_store, tmp_path / "disk")
    assert sender.join(SECONDS) is None and is_delivered(journal.folder)
    assert delivery_error(journal.folder) is None
    (run,) = stored_runs(uri)
    assert (run["status"], run["metrics"]) == ("FINISHED", epochs_as_points([epoch(1), epoch(2)]))


def test_a_server_that_stays_away_is_given_up(new_run, epoch):
    journal = new_run(f"http://127.0.0.1:{closed_port()}")
    journal.status("running")
    journal.append(epoch(1))
    journal.status("failed", "out of memory")
    assert not follow(journal.folder, os.getpid(), poll=0.02, longest_pause=0.1, after_end=0.5)
    assert not is_delivered(journal.folder)
    assert "127.0.0.1" in delivery_error(journal.folder)
    assert ui_hint(journal.folder) is None


def test_without_mlflow_the_run_ends_well_and_its_folder_says_what_to_install(tmp_path, record):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "mlflow.py").write_text("raise ModuleNotFoundError('no mlflow here')\n")
    run = tmp_path / "run"
    process = training(run, record("sqlite:///mlflow.db"), cwd=tmp_path, PYTHONPATH=str(tmp_path / "path"))
    output, errors = process.communicate(timeout=SECONDS)
    assert json.loads(output.splitlines()[-1]) == [False, []]
    assert (process.returncode, errors) == (0, "")
    assert "pip install mlflow" in delivery_error(run)
    assert "pip install mlflow" in (run / "sender.log").read_text()
    assert read_status(run)["state"] == "finished"


def test_no_tracking_no_sender(new_run):
    journal = new_run(None)
    journal.status("running")
    assert start_sender(journal.folder) is None
    assert not (journal.folder / "sender.log").exists()
    assert wait_delivered(journal.folder, 0)


def test_a_password_reaches_the_server_and_nothing_else(new_run, record):
    heard = []

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers["Authorization"])
            self.send_error(500)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        journal = new_run(f"http://ann:s%40cret-word@{address}")
        journal.status("running")
        sender = start_sender(journal.folder, f"http://ann:s%40cret-word@{address}")
        try:
            soon(lambda: delivery_error(journal.folder))
            command = Path(f"/proc/{sender.pid}/cmdline").read_text()
        finally:
            sender.kill()
            sender.wait()
            server.shutdown()
    assert heard[0] == "Basic " + base64.b64encode(b"ann:s@cret-word").decode()
    texts = [command, *(file.read_text() for file in journal.folder.iterdir())]
    assert address in "".join(texts)
    assert not [text for text in texts if "cret-word" in text]


def test_an_error_is_kept_in_one_line_without_the_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s@cret")
    error = OperationalError("no route to postgresql://ann:s%40cret@db with s@cret\nand much more")
    assert one_line(error) == "OperationalError: no route to postgresql://db with ***"
    assert len(one_line(OperationalError("x" * 1000))) == 300
    assert one_line(OperationalError()) == "OperationalError: "


class OperationalError(Exception):
    pass


@pytest.mark.full
@pytest.mark.parametrize("behind", ["file", "server"])
def test_eight_runs_that_start_together_on_a_store_that_is_not_there(behind, tmp_path, record, stored_runs):
    """The database, its schema and the experiment are made by whoever comes first; nobody gives up."""
    server = MlflowServer(tmp_path, "deep/mlflow.db")
    backend = f"sqlite:///{server.database}"
    uri = backend if behind == "file" else server.uri
    if behind == "server":
        server.database.parent.mkdir()
        server.start()
    try:
        names = [f"run{n}" for n in range(8)]
        processes = [training(tmp_path / name, record(uri, name), cwd=tmp_path, wait=500) for name in names]
        for process in processes:
            output, errors = process.communicate(timeout=550)
            # A run may stop waiting when its store has failed twice since its end; its sender goes on.
            assert json.loads(output.splitlines()[-1])[1] == [], errors
        soon(lambda: all(is_delivered(tmp_path / name) for name in names))
    finally:
        server.kill()
    runs = stored_runs(backend)
    assert sorted(run["name"] for run in runs) == sorted(names)
    assert {(run["status"], len(run["metrics"])) for run in runs} == {("FINISHED", 3)}
    if behind == "file":  # opened by one at a time, so that no pass fails
        assert [(tmp_path / name / "sender.log").read_text() for name in names] == [""] * 8


@pytest.mark.full
def test_a_real_server_that_goes_away_and_comes_back(
    tmp_path, new_run, empty_store, stored_runs, epochs_as_points, epoch
):
    server = MlflowServer(tmp_path)
    shutil.copy(empty_store, server.database)
    backend, journal = f"sqlite:///{server.database}", new_run(server.uri)
    options = {"poll": 0.05, "longest_pause": 0.5, "after_end": 3 * SECONDS}
    sender = threading.Thread(target=follow, args=(journal.folder, os.getpid()), kwargs=options)
    journal.status("running")
    journal.append(epoch(1))
    server.start()
    try:
        sender.start()
        soon(lambda: stored_runs(backend) and stored_runs(backend)[0]["metrics"])
        server.kill()
        journal.append(epoch(2))
        soon(lambda: delivery_error(journal.folder))
        journal.append(epoch(3))
        journal.status("interrupted", "asked to stop")
        server.start()
        sender.join(SECONDS)
        assert is_delivered(journal.folder)
        (run,) = stored_runs(backend)
        assert (run["status"], run["metrics"]) == ("KILLED", epochs_as_points([epoch(n) for n in (1, 2, 3)]))
        artifacts = [file.name for file in tmp_path.glob("artifacts/**/*") if file.is_file()]
        assert sorted(artifacts) == ["config.yaml", "run.log"]
        assert ui_hint(journal.folder)[0] == server.uri
    finally:
        server.kill()
