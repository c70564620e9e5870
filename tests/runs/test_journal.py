import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl_lab.errors import InputError
from mcl_lab.host import files
from mcl_lab.host.secrets import without_secrets
from mcl_lab.host.uri import connectable_uri, credentials, sqlite_file, stored_uri
from mcl_lab.runs.journal import Journal, read_epochs, read_record, read_status

names = st.text(min_size=1, max_size=8)
epochs_lists = st.lists(st.dictionaries(names, st.floats(), max_size=3), max_size=6)


def as_epochs(metrics: list[dict]) -> list[dict]:
    return [{"epoch": n, "step": 7 * n, "time_ms": 1000 + n, "metrics": m} for n, m in enumerate(metrics, start=1)]


def with_null(epochs: list[dict]) -> list[dict]:
    def nulled(metrics: dict) -> dict:
        return {name: value if math.isfinite(value) else None for name, value in metrics.items()}

    return [{**epoch, "metrics": nulled(epoch["metrics"])} for epoch in epochs]


@settings(deadline=None, max_examples=60)
@given(epochs_lists, st.data())
def test_restore_after_a_crash_at_any_byte_gives_the_lines_an_undisturbed_run_has(tmp_path_factory, metrics, data):
    epochs = as_epochs(metrics)
    undisturbed, crashed = (Journal(tmp_path_factory.mktemp(name)) for name in ("undisturbed", "crashed"))
    for epoch in epochs:
        undisturbed.append(epoch)
        crashed.append(epoch)
    path = crashed.folder / "metrics.jsonl"
    written = path.read_bytes() if path.exists() else b""
    cut = data.draw(st.integers(0, len(written)))
    if written:
        path.write_bytes(written[:cut])
    assert read_epochs(crashed.folder) == with_null(epochs)[: written[:cut].count(b"\n")]

    known = data.draw(st.integers(0, len(epochs)))  # the checkpoint may be older or newer than the journal
    crashed.restore(epochs[:known])
    for epoch in epochs[known:]:
        crashed.append(epoch)
    assert read_epochs(crashed.folder) == with_null(epochs)
    if epochs:
        assert path.read_bytes() == (undisturbed.folder / "metrics.jsonl").read_bytes()


@given(epochs_lists)
@settings(deadline=None, max_examples=20)
def test_lines_are_strict_json_and_read_back_restore_nothing(tmp_path_factory, metrics):
    journal = Journal(tmp_path_factory.mktemp("run"))
    journal.restore(as_epochs(metrics))
    path = journal.folder / "metrics.jsonl"
    if not metrics:
        assert not path.exists()
        return

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert lines == with_null(as_epochs(metrics))
    before = path.stat()
    journal.restore(lines)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_crash_while_replacing_keeps_the_old_file(tmp_path, monkeypatch, epoch):
    journal = Journal(tmp_path)
    journal.append(epoch(1))
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            journal.restore([epoch(1), epoch(2)])
    assert read_epochs(tmp_path) == [epoch(1)]
    journal.restore([epoch(1), epoch(2)])
    assert read_epochs(tmp_path) == [epoch(1), epoch(2)]
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl"]


def test_a_resumed_run_keeps_its_identity_when_tracked_elsewhere(tmp_path, record):
    first = Journal(tmp_path).begin(record("http://one.example:5000"))
    again = Journal(tmp_path).begin(record("http://two.example:5000"))
    assert len(first["id"]) == 32
    assert again == first | {"uri": "http://two.example:5000"} == read_record(tmp_path)


def test_the_same_record_again_is_not_rewritten_and_other_runs_have_other_ids(tmp_path, record):
    (tmp_path / "other").mkdir()
    first = Journal(tmp_path).begin(record(None))
    before = (tmp_path / "record.json").stat()
    Journal(tmp_path).begin(record(None))
    assert (tmp_path / "record.json").stat().st_ino == before.st_ino
    assert Journal(tmp_path / "other").begin(record(None))["id"] != first["id"]


def test_status_says_when_how_and_who(tmp_path):
    journal = Journal(tmp_path)
    assert read_status(tmp_path) is None
    journal.status("running")
    running = read_status(tmp_path)
    journal.status("failed", "loss became NaN")
    failed = read_status(tmp_path)
    assert (running["state"], running["ended_ms"], running["pid"]) == ("running", None, os.getpid())
    assert (failed["state"], failed["message"]) == ("failed", "loss became NaN")
    assert failed["ended_ms"] >= failed["started_ms"] == running["started_ms"]


def test_a_relative_database_is_stored_by_its_place(tmp_path, monkeypatch, record):
    monkeypatch.chdir(tmp_path)
    assert Journal(tmp_path).begin(record("sqlite:///mlflow.db"))["uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert stored_uri("sqlite:////abs/a b.db?timeout=9") == "sqlite:////abs/a b.db?timeout=9"
    assert str(sqlite_file("sqlite:////abs/a b.db?timeout=9")) == "/abs/a b.db"
    assert sqlite_file("http://host/sqlite:///") is None


@pytest.mark.parametrize(
    ("given", "stored", "user", "password"),
    [
        ("http://ann:s%40cret@host:5000/base", "http://host:5000/base", "ann", "s@cret"),
        ("https://token@host", "https://host", "token", None),
        ("postgresql+psycopg2://ann:s%2Fcret@db/runs", "postgresql+psycopg2://db/runs", "ann", "s/cret"),
        ("http://host:5000", "http://host:5000", None, None),
        ("postgresql:///runs", "postgresql:///runs", None, None),
        ("databricks", "databricks", None, None),
    ],
)
def test_user_and_password_leave_the_uri_for_the_environment(given, stored, user, password):
    wanted = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    environment = {name: value for name, value in wanted.items() if value is not None}
    assert stored_uri(given) == stored_uri(stored) == stored
    assert credentials(given) == environment
    # MLflow reads the environment for servers only; a database must get its URI back.
    assert connectable_uri(stored, environment) == (given if stored.startswith("postgresql") else stored)


@pytest.mark.parametrize(
    "uri",
    ["mlruns", "./mlruns", "file:///tmp/mlruns", "sqlite://", "sqlite:///", "sqlite:///:memory:", "localhost:5000",
     "http://", "http://ann:geheim@", "http://ann:geheim@host:port", "http://[ann:geheim", ""],
)  # fmt: skip
def test_what_is_no_store_is_refused_without_repeating_secrets(tmp_path, record, uri):
    with pytest.raises(InputError) as error:
        Journal(tmp_path).begin(record(uri))
    assert error.value.key == "tracking.uri"
    assert "sqlite:///" in str(error.value) and "geheim" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_secrets_are_blotted_out_of_messages():
    environment = {"MLFLOW_TRACKING_PASSWORD": "s@cret"}
    assert without_secrets("to s@cret and s%40cret", environment) == "to *** and ***"
    assert without_secrets("plain", {}) == "plain"
