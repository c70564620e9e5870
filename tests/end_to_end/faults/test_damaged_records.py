"""Files of a run's record that something damaged: none of them ends a program, hides the other runs or makes a second run."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from mcl_lab.errors import RunFailed
from mcl_lab.host.processes import this_host
from mcl_lab.launch.ledger_run import LedgerRun
from mcl_lab.launch.standing import observe
from mcl_lab.runs.journal import Journal, read_epochs
from mcl_lab.runs.lock import RunLock, is_held
from mcl_lab.runs.records import RunFolders
from mcl_lab.tasks.sync import sync
from mcl_lab.tracking.delivery import delivery_error, is_delivered, ui_hint, wait_delivered
from mcl_lab.tracking.sender import follow

ROOT = Path(__file__).parents[3]
FILES = ["record.json", "metrics.jsonl", "status.json", "delivery.json"]


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    from mcl_lab.tracking.mlflow.store import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(autouse=True)
def no_foreign_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "MLFLOW_TRACKING_"))]:
        monkeypatch.delenv(name)


def epochs(count: int = 3) -> list[dict]:
    return [
        {"epoch": n, "step": n, "time_ms": 1_700_000_000_000 + n, "metrics": {"loss": 1 / n}}
        for n in range(1, count + 1)
    ]


def record(folder: Path, database: Path) -> dict:
    names = {"run_key": "0f" * 32, "name": folder.name, "params": {"seed": "0"}, "tags": {"loss": "lmcl"}}
    return {"uri": f"sqlite:///{database}", "experiment": str(folder.parent), **names}


def a_run(folder: Path, database: Path, *, delivered: bool) -> Journal:
    """A run of three epochs that has ended, of which the store has the beginning."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    journal = Journal(folder)
    journal.begin(record(folder, database))
    journal.status("running")
    for epoch in epochs()[:2]:
        journal.append(epoch)
    if delivered:
        sync(None, runs=str(folder))
    journal.append(epochs()[2])
    journal.status("finished")
    return journal


def recorded(database: Path, experiment: Path) -> dict[str, tuple]:
    """name: (status, steps) of every run; none is there twice."""
    with closing(sqlite3.connect(database)) as opened:
        runs = opened.execute(
            "select run_uuid, runs.name, status from runs join experiments using (experiment_id) where experiments.name = ?",
            [str(experiment)],
        ).fetchall()
        steps = "select step from metrics where run_uuid = ? order by step"
        found = {name: (status, [row[0] for row in opened.execute(steps, [run])]) for run, name, status in runs}
    assert len(found) == len(runs)
    return found


def wrong_types(text: str) -> str:
    objects = map(json.loads, text.splitlines() if "}\n{" in text else [text])
    lines = [{key: [value] for key, value in found.items()} for found in objects]
    return "".join(json.dumps(line) + "\n" for line in lines)


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2] + "\n",
    "no object": lambda text: "[]\n",
    "empty object": lambda text: "{}\n",
    "null": lambda text: "null\n",
    "zeros": lambda text: "\0" * len(text) + "\n",
    "wrong types": wrong_types,
    "no UTF-8": lambda text: text.replace('o', "\udcff", 1),
    "nested": lambda text: "[" * 10**5 + "\n",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_costs_its_run_a_line_and_is_mended_when_the_run_goes_on(
    name, damage, database, tmp_path, capsys
):
    journal = a_run(tmp_path / "bad", database, delivered=True)
    a_run(tmp_path / "good", database, delivered=False)
    path = journal.folder / name
    text = path.read_text()
    path.write_bytes(DAMAGES[damage](text).encode(errors="surrogateescape"))
    capsys.readouterr()

    if name == "delivery.json":
        sync(None, runs=str(tmp_path))
    else:
        with pytest.raises(RunFailed, match="^1 of 2 runs could not be delivered"):
            sync(None, runs=str(tmp_path))
    printed = capsys.readouterr()
    bad, good = printed.out.splitlines()
    assert good.startswith(f"{tmp_path}/good: delivered to ") and printed.err == ""
    assert name == "delivery.json" or name in bad and "amaged" in bad
    assert recorded(database, tmp_path)["good"] == ("FINISHED", [1, 2, 3])

    # Nobody else trips over it either.
    assert {run.name for run in RunFolders(tmp_path).runs()} >= {"good"}
    RunFolders(tmp_path).epochs(str(journal.folder), lambda _: True)
    observe(LedgerRun(str(journal.folder), "", "", "", "", seed=0, epochs=3, uses_gpu=False, log=""))
    wait_delivered(journal.folder, 0), ui_hint(journal.folder), delivery_error(journal.folder)
    assert not is_held(journal.folder)

    # The run goes on, from a checkpoint that remembers its epochs.
    again = Journal(journal.folder)
    again.begin(record(journal.folder, database))
    again.restore(epochs())
    again.status("running")
    again.status("finished")
    sync(None, runs=str(tmp_path))
    assert recorded(database, tmp_path) == {"bad": ("FINISHED", [1, 2, 3]), "good": ("FINISHED", [1, 2, 3])}


def test_epochs_around_a_damaged_line_can_be_shown(tmp_path):
    journal = Journal(tmp_path)
    journal.restore(epochs())
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('"epoch": 2', '"epoch" 2'))
    assert [epoch["epoch"] for epoch in read_epochs(tmp_path, skip_damaged=True)] == [1, 3]


OWN = {"host": this_host(), "pid": os.getpid(), "process_start": "another boot:1", "slurm": None, "token": "x"}
LOCKS = {
    "": b"", "[]": b"[]", "null": b"null", "{}": b"{}", "no UTF-8": b"\xff\xfe{", "nested": b"[" * 10**5,
    **{f"no {name}": json.dumps({key: value for key, value in OWN.items() if key != name}).encode() for name in OWN},
    **{f"wrong {name}": json.dumps(OWN | {name: {"a": 1}}).encode() for name in OWN},
    "elsewhere, wrong": json.dumps(OWN | {"host": "elsewhere", "pid": None}).encode(),
}  # fmt: skip


@pytest.mark.parametrize("content", LOCKS.values(), ids=LOCKS)
def test_a_damaged_lock_locks_nobody_out(content, tmp_path):
    path = tmp_path / "run.lock"
    path.write_bytes(content)
    assert not is_held(tmp_path)
    with RunLock(tmp_path, stale_after=600.0) as lock:
        lock.check()
        assert is_held(tmp_path) and json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_lock_that_is_damaged_while_it_is_held_is_lost(tmp_path):
    with RunLock(tmp_path, heartbeat=0.02) as lock:
        lock.path.write_bytes(b"\xff\xfe")
        deadline = time.monotonic() + 60
        with pytest.raises(RunFailed, match="took this run over"):
            while time.monotonic() < deadline:
                lock.check()
                time.sleep(0.02)


def test_a_lock_whose_clock_was_set_back_is_taken_over(tmp_path):
    path = tmp_path / "run.lock"
    path.write_text(json.dumps(OWN | {"host": "elsewhere"}))
    os.utime(path, (time.time() + 10**6,) * 2)
    assert not is_held(tmp_path)
    taken = threading.Event()

    def take():
        with RunLock(tmp_path):
            taken.set()

    threading.Thread(target=take, daemon=True).start()
    assert taken.wait(60)


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("raise ModuleNotFoundError('no mlflow here')", "pip install mlflow"),
        ("def broken(:", "MLflow cannot be imported: SyntaxError"),
        ("raise RuntimeError('of another version')", "MLflow cannot be imported: RuntimeError: of another version"),
        ("entities = None", "pip install mlflow"),  # a module of that name that is not MLflow
    ],
)  # fmt: skip
def test_a_broken_mlflow_is_said_in_one_line(defect, said, database, tmp_path):
    journal = a_run(tmp_path / "run", database, delivered=False)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "mlflow.py").write_text(f"{defect}\n")
    code = "import sys; from mcl_lab.tracking import sender; sys.exit(sender.main())"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}/path:{ROOT}"}
    command = [sys.executable, "-c", code, str(journal.folder), "--pid", str(os.getpid())]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (1, "") and ended.stdout.count("\n") == 1 and said in ended.stdout
    assert said in delivery_error(journal.folder) and not wait_delivered(journal.folder, 100)
    code = f"from mcl_lab.tasks.sync import sync; sync(None, runs={str(journal.folder)!r})"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (
        ended.stderr.splitlines()[-1].startswith("mcl_lab.errors.RunFailed: ") and said in ended.stderr.splitlines()[-1]
    )


def test_a_folder_that_may_only_be_read_costs_a_line(database, tmp_path, capsys):
    a_run(tmp_path / "bad", database, delivered=False)
    a_run(tmp_path / "good", database, delivered=False)
    for words in (["--bind", str(tmp_path / "bad")], ["-o", "remount,ro,bind"]):
        if subprocess.run(["mount", *words, str(tmp_path / "bad")], capture_output=True).returncode:
            pytest.skip("needs the right to mount a file system")
    try:
        with pytest.raises(RunFailed, match="^1 of 2 runs"):
            sync(None, runs=str(tmp_path))
        bad, good = capsys.readouterr().out.splitlines()
        assert "not delivered: " in bad and "Read-only" in bad and "delivered to" in good
    finally:
        subprocess.run(["umount", str(tmp_path / "bad")], check=True)
    sync(None, runs=str(tmp_path))
    assert recorded(database, tmp_path) == {"bad": ("FINISHED", [1, 2, 3]), "good": ("FINISHED", [1, 2, 3])}


def test_a_status_that_is_damaged_while_the_run_goes_on(database, tmp_path):
    """The sender waits for the next word, which is whole."""
    journal = a_run(tmp_path / "run", database, delivered=True)
    journal.status("running")
    whole = (journal.folder / "status.json").read_text()
    (journal.folder / "status.json").write_text(whole[:20])
    options = {"poll": 0.02, "longest_pause": 0.1}
    sender = threading.Thread(target=follow, args=(journal.folder, os.getpid()), kwargs=options, daemon=True)
    sender.start()
    deadline = time.monotonic() + 60
    while delivery_error(journal.folder) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sender.is_alive() and "status.json" in delivery_error(journal.folder)
    journal.status("finished")
    sender.join(60)
    assert is_delivered(journal.folder)
    assert recorded(database, tmp_path) == {"run": ("FINISHED", [1, 2, 3])}
