"""Where things lie: each name once, and the same ones as ever."""

from pathlib import Path

from mcl_lab.config.stored import FILE_NAME
from mcl_lab.runs.folders import foreign
from mcl_lab.runs.layout import RecordFolder, RunFolder, SweepFolder


def test_names():
    assert RunFolder("runs/x").result == Path("runs/x/result.json") and RunFolder.result.name == "result.json"
    assert RunFolder.config.name == FILE_NAME  # by which config/ reads it
    assert RecordFolder.names() < RunFolder.names() and RecordFolder.names() < SweepFolder.names()


def test_what_is_a_runs_own(tmp_path):
    names = "config.yaml record.json metrics.jsonl status.json result.json run.log run.lock system.jsonl delivery.json"
    names += " sender.log sender.lock mlflow.lock changes.diff changes-0123abcd.diff .hidden"
    for name in names.split():
        (tmp_path / name).touch()
    for name in ("checkpoints", "export", "features"):
        (tmp_path / name).mkdir()
    assert foreign(tmp_path) == []
    for name in ("changes-0123abcx.diff", "ledger.json", "notes.txt"):
        (tmp_path / name).touch()
    assert foreign(tmp_path) == ["changes-0123abcx.diff", "ledger.json", "notes.txt"]
