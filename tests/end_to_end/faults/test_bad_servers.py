"""Whatever a tracking server does, no run notices, and in the end the store has every point once, in one run."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bad_server import BadServer, RealServer
from mlflow_server import wait_until
from training_runs import ALONE, end, fork, main_in, only_folder, senders_of, start, status

from mcl_lab.runs.journal import Journal, read_epochs
from mcl_lab.tracking.delivery import delivery_error, is_delivered
from mcl_lab.tracking.sender import follow

ROOT = Path(__file__).parents[3]
ARTIFACTS = "mlflow-artifacts"
EVERYDAY = [(503, ""), ("null", ""), ("cut", ""), ("object", "log-batch")]  # what, and to which requests
OTHERS = [500, 429, 401, 403, "garbage", "list", "object", "late", "silent"]
FAULTS = [*EVERYDAY, *[pytest.param(fault, "", marks=pytest.mark.full) for fault in OTHERS]]
FAULTS += [pytest.param("object", "runs/update", marks=pytest.mark.full)]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    from mcl_lab.tracking.mlflow.store import MlflowClient

    folder = tmp_path_factory.mktemp("server")
    MlflowClient(tracking_uri=f"sqlite:///{folder}/empty.db").search_experiments()  # which takes longer than a copy
    shutil.copy(folder / "empty.db", folder / "server.db")
    server = RealServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bad(real):
    server = BadServer(real)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "MLFLOW_", "FORCE_COLOR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


def a_journal(folder: Path, uri: str, experiment: str) -> Journal:
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0\n")
    journal = Journal(folder)
    names = {"run_key": "0f" * 32, "name": folder.name, "params": {"pair": "resnet8"}, "tags": {"loss": "lmcl"}}
    journal.begin({"uri": uri, "experiment": experiment, **names})
    journal.status("running")
    return journal


def append(journal: Journal, epoch: int) -> None:
    metrics = {"train/loss": 1 / epoch, "test/a/own_head": 50.0 + epoch}
    journal.append({"epoch": epoch, "step": 10 * epoch, "time_ms": 1_700_000_000_000 + epoch, "metrics": metrics})


def points(folder: Path) -> list[tuple]:
    """What a store must have of a run's epochs."""
    return sorted(
        (name, epoch["epoch"], value, epoch["time_ms"])
        for epoch in read_epochs(folder)
        for name, value in epoch["metrics"].items()
        if value is not None
    )


def assert_recorded(real: RealServer, experiment: str, *folders: Path) -> None:
    found = {name: (state, rows) for name, state, rows in real.recorded(experiment)}
    assert len(found) == len(real.recorded(experiment)) == len(folders)
    for folder in folders:
        state, rows = found[folder.name]
        epochs = [row for row in rows if not row[0].startswith("final/")]
        assert (state, epochs) == ("FINISHED", points(folder))
        assert len(set(rows)) == len(rows)


def in_background(folder: Path) -> threading.Thread:
    options = {"poll": 0.02, "longest_pause": 0.1, "after_end": 200.0}
    sender = threading.Thread(target=follow, args=(folder, os.getpid()), kwargs=options, daemon=True)
    sender.start()
    return sender


@pytest.mark.parametrize(("fault", "only"), FAULTS)
def test_every_point_once_after(fault, only, real, bad, tmp_path):
    experiment = f"{fault} {only.replace('/', ' ')}"
    journal = a_journal(tmp_path / "run", bad.uri, experiment)
    bad.delay = 1.5  # longer than the sender waits for an answer
    if not only:  # from the very first request
        bad.fault = fault
    append(journal, 1)
    sender = in_background(journal.folder)
    if not only:
        wait_until(lambda: bad.count >= 2)
        assert delivery_error(journal.folder)
        bad.well()
    wait_until(lambda: [len(run[2]) for run in real.recorded(experiment)] == [2])
    before, bad.fault, bad.only = bad.count, fault, only  # and in the middle
    append(journal, 2)
    journal.status("finished")
    wait_until(lambda: bad.count >= before + 2)
    bad.well()
    sender.join(100)
    assert is_delivered(journal.folder)
    assert_recorded(real, experiment, journal.folder)


@pytest.mark.full
def test_a_request_that_is_heard_too_late_makes_no_second_run(real, bad, tmp_path):
    journal = a_journal(tmp_path / "run", bad.uri, "too late")
    bad.fault, bad.only, bad.delay = "held", "runs/create", 100.0
    append(journal, 1)
    sender = in_background(journal.folder)
    wait_until(lambda: bad.count == 1)
    bad.fault = None  # the next are answered, the first still lies about
    wait_until(lambda: [len(run[2]) for run in real.recorded("too late")] == [2])
    bad.over.set()
    wait_until(lambda: len(real.recorded("too late")) == 2)
    append(journal, 2)
    journal.status("finished")
    sender.join(100)
    assert_recorded(real, "too late", journal.folder)


@pytest.mark.parametrize("fault", [507, *[pytest.param(status, marks=pytest.mark.full) for status in (404, 500)]])
def test_refused_artifacts_keep_no_metrics_back(fault, real, bad, tmp_path):
    experiment = f"artifacts {fault}"
    journal = a_journal(tmp_path / "run", bad.uri, experiment)
    bad.fault, bad.only = fault, ARTIFACTS
    append(journal, 1)
    sender = in_background(journal.folder)
    journal.status("finished")
    wait_until(lambda: bad.count >= 2)
    assert_recorded(real, experiment, journal.folder)
    assert not is_delivered(journal.folder) and str(fault) in delivery_error(journal.folder)
    bad.well()
    sender.join(100)
    assert is_delivered(journal.folder)
    assert_recorded(real, experiment, journal.folder)


@pytest.mark.full
def test_a_server_that_fails_now_and_then_gets_on(real, bad, tmp_path):
    """However many epochs there are: what was sent in a pass that failed is not to be sent again by the next."""
    journal = a_journal(tmp_path / "run", bad.uri, "now and then")
    for epoch in range(1, 41):
        append(journal, epoch)
    answer, asked = bad.answer, []

    def every_twelfth(handler, body):
        asked.append(handler.path)
        bad.fault = 503 if len(asked) % 12 == 0 else None
        answer(handler, body)

    bad.answer = every_twelfth
    journal.status("finished")
    sender = in_background(journal.folder)
    sender.join(100)
    assert is_delivered(journal.folder)
    assert_recorded(real, "now and then", journal.folder)
    assert len([path for path in asked if "log-batch" in path]) < 3 * 40


def test_a_run_whose_clock_went_back(real, tmp_path):
    journal = a_journal(tmp_path / "run", real.uri, "clock")
    append(journal, 1)
    journal.status("finished")
    path = journal.folder / "status.json"
    ended = int(path.read_text().partition('"ended_ms": ')[2].partition(",")[0])
    path.write_text(path.read_text().replace(f'"ended_ms": {ended}', f'"ended_ms": {ended - 10**10}'))
    in_background(journal.folder).join(100)
    assert is_delivered(journal.folder)
    assert_recorded(real, "clock", journal.folder)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of four MiB of its own, and a function that fills it."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")

    def fill() -> Path:
        filler = place / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return filler

    yield place, fill
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_store_that_is_full(real, small_disk, tmp_path):
    place, fill = small_disk
    shutil.copy(real.folder / "empty.db", place / "mlflow.db")
    journal = a_journal(tmp_path / "run", f"sqlite:///{place}/mlflow.db", "full")
    filler = fill()
    append(journal, 1)
    sender = in_background(journal.folder)
    wait_until(lambda: delivery_error(journal.folder))
    append(journal, 2)
    journal.status("finished")
    filler.unlink()
    sender.join(100)
    assert is_delivered(journal.folder)
    assert_recorded(RealServer(place, "mlflow.db"), "full", journal.folder)


@pytest.mark.full
def test_a_sender_outlives_a_full_disk_of_its_own(real, small_disk):
    place, fill = small_disk
    journal = a_journal(place / "run", real.uri, "own disk")
    append(journal, 1)
    sender = subprocess.Popen(sender_command(journal.folder), cwd=ROOT, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: (journal.folder / "delivery.json").exists())
        append(journal, 2)
        filler = fill()
        wait_until(lambda: [len(run[2]) for run in real.recorded("own disk")] == [4])
        time.sleep(1.5)  # it cannot remember that, and tries again
        assert sender.poll() is None
        filler.unlink()
        journal.status("finished")
        assert sender.wait(100) == 0 and is_delivered(journal.folder)
    finally:
        sender.kill()
        sender.communicate()
    assert_recorded(real, "own disk", journal.folder)


def sender_command(folder: Path, longest_pass: float = 60.0) -> list[str]:
    code = f"import sys; from mcl_lab.tracking import sender; sender.follow.__kwdefaults__['longest_pass'] = {longest_pass}"
    code += "; sender.follow.__kwdefaults__['longest_pause'] = 0.5; sender.MOST_MEMORY = 2**29; sys.exit(sender.main())"
    return [sys.executable, "-c", code, str(folder), "--pid", str(os.getpid())]


@pytest.mark.full
@pytest.mark.parametrize("fault", ["endless", "dripping"])
def test_an_answer_without_end(fault, real, bad, tmp_path):
    journal = a_journal(tmp_path / "run", bad.uri, fault)
    bad.fault = fault
    append(journal, 1)
    sender = subprocess.Popen(sender_command(journal.folder, longest_pass=6.0), cwd=ROOT)
    try:
        wait_until(lambda: delivery_error(journal.folder))
        peak = Path(f"/proc/{sender.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        assert int(peak) < 2**20  # kB
        bad.well()
        journal.status("finished")
        assert sender.wait(100) == 0
    finally:
        sender.kill()
    assert_recorded(real, fault, journal.folder)


@pytest.mark.full
def test_a_run_for_each_fault(real, tmp_path, monkeypatch):
    """The whole program, from its first step to its last word before a server that does nothing else."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")

    def run(fault: int | str) -> tuple[BadServer, Path, int]:
        server, cwd = BadServer(real), tmp_path / str(fault)
        server.fault, server.delay = fault, 30.0
        cwd.mkdir()
        words = [*ALONE, "trainer.epochs=3", "tracking.wait=0", f"tracking.uri={server.uri}"]
        return server, cwd, fork(main_in, cwd, [*words, f"tracking.experiment='each {fault}'"])

    faults = [401, 500, "object", "cut", "late", "silent", "dripping"]
    ended = list(map(run, faults))
    try:
        for _, cwd, exit_status in ended:
            output = (cwd / "output.txt").read_text()
            assert exit_status == 0 and "mcl_lab: " not in output and "Traceback" not in output
            assert "not yet recorded" in output
            assert len(read_epochs(only_folder(cwd))) == 3 and status(only_folder(cwd)) == "finished"
        for server, _, _ in ended:
            server.well()
        wait_until(lambda: all(is_delivered(only_folder(cwd)) for _, cwd, _ in ended))
        for fault, (_, cwd, _) in zip(faults, ended, strict=True):
            assert_recorded(real, f"each {fault}", only_folder(cwd))
    finally:
        for server, _, _ in ended:
            server.stop()


@pytest.mark.full
def test_a_run_whose_senders_are_killed_at_random_moments(real, bad, tmp_path):
    """And whose server answers late, in part, nonsense, not at all; it ends on its own, and one sync delivers the rest."""
    words = [*ALONE, "trainer.epochs=100", "data.batch_size=32", "tracking.wait=0"]  # 45 steps an epoch
    words += ["tracking.experiment=killed", f"tracking.uri={bad.uri}"]
    training = start(words, tmp_path)
    faults = iter((None, "late", None, "cut", "garbage", "silent"))
    bad.delay, killed = 1.5, 0
    wait_until(lambda: list(tmp_path.glob("runs/*/metrics.jsonl")))
    folder = only_folder(tmp_path)
    for fault in faults:
        bad.fault = fault
        sender = subprocess.Popen(sender_command(folder)[:-1] + [str(training.pid)], cwd=ROOT)
        time.sleep(1.0 + killed % 3)
        for process in senders_of(folder):
            os.kill(process, signal.SIGKILL)
        sender.kill()  # if it still was about to begin
        sender.wait()
        killed += 1  # noqa: SIM113 (counted over several loops)
        assert fault is not None or training.poll() is None  # or all would be delivered already
    ended = end(training)
    assert (ended.status, ended.err) == (0, "")
    assert len(read_epochs(folder)) == 100
    for process in senders_of(folder):
        os.kill(process, signal.SIGKILL)
    bad.well()
    synced = end(start(["task=sync"], tmp_path))
    assert (synced.status, synced.err) == (0, "") and "delivered to http" in synced.out
    assert_recorded(real, "killed", folder)


@pytest.mark.full
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_training_process_opens_no_connection(real, bad, tmp_path):
    """So that no step can wait for a server: of all that the program does, only the sender speaks to the network."""
    bad.fault, trace = 500, tmp_path / "trace"
    words = [*ALONE, "tracking.wait=60", f"tracking.uri={bad.uri}"]
    traced = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=socket,connect,execve", "-o", str(trace)]
    training = start(words, tmp_path, before=traced)
    wait_until(lambda: bad.count and list(tmp_path.glob("runs/*/result.json")))
    bad.well()
    ended = end(training)  # and strace with it, once the sender has gone
    assert (ended.status, ended.err) == (0, "")
    lines = [line.split(None, 1) for line in trace.read_text(errors="replace").splitlines()]
    first = lines[0][0]
    (sender,) = {process for process, call in lines if "mcl_lab.tracking.sender" in call}
    inet = {process for process, call in lines if "AF_INET" in call}
    assert sender in inet and first not in inet
    started = next(number for number, (process, _) in enumerate(lines) if process == sender)
    assert not [call for _, call in lines[:started] if "AF_INET" in call]
