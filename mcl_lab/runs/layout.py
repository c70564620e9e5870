"""What lies where in the folder of a run, and in that of a sweep: every other room takes the names from here. config/, which
stands below, has its own of `config.yaml`; a test holds the two equal."""

from dataclasses import dataclass
from pathlib import Path
from typing import overload


@dataclass(frozen=True)
class Place:
    """A file or folder of that name, or files of that pattern.

    `RunFolder("runs/x").result` is the path of the one in that folder, `RunFolder.result.name` the name.
    """

    name: str

    @overload
    def __get__(self, folder: None, kind: type) -> "Place": ...
    @overload
    def __get__(self, folder: "RecordFolder", kind: type) -> Path: ...
    def __get__(self, folder: "RecordFolder | None", kind: type) -> "Place | Path":
        return self if folder is None else folder.path / self.name


class RecordFolder:
    """What is recorded of a run, or of a sweep, and how it is delivered."""

    record = Place("record.json")  # what it is; see journal.py
    epochs = Place("metrics.jsonl")  # a line an epoch
    status = Place("status.json")  # how it stands
    samples = Place("system.jsonl")  # of the machine; see tracking/system.py
    delivery = Place("delivery.json")  # what the sender remembers
    sender_log = Place("sender.log")
    sender_lock = Place("sender.lock")  # held by whoever delivers
    mlflow_lock = Place("mlflow.lock")  # held by whoever looks it up in MLflow, to make it when it is not there

    def __init__(self, path: Path | str):
        self.path = Path(path)

    @classmethod
    def names(cls) -> frozenset[str]:
        """Of all that may lie in such a folder."""
        return frozenset(
            place.name for kind in cls.__mro__ for place in vars(kind).values() if isinstance(place, Place)
        )


class RunFolder(RecordFolder):
    """The folder of a run."""

    config = Place("config.yaml")  # resolved; config/stored.py writes and reads it
    checkpoints = Place("checkpoints")
    result = Place("result.json")  # of a finished run
    log = Place("run.log")
    lock = Place("run.lock")  # held by the process that trains it
    changes = Place("changes.diff")  # how its code differed from its commit
    later_changes = Place(f"changes-{'[0-9a-f]' * 8}.diff")  # a pattern: of other code that went on with it
    export = Place("export")  # what task=export makes
    features = Place("features")  # what task=features makes


class SweepFolder(RecordFolder):
    """The folder of a sweep."""

    ledger = Place("ledger.json")  # its runs and what became of each; see launch/ledger.py
    lock = Place("ledger.lock")  # held by whoever launches it
    configs = Place("configs.json")  # of the runs that were submitted, as YAML, by their folders
    code = Place("code")  # snapshots
    jobs = Place("jobs")  # a folder for each job, with a ledger of its own, and what submitit writes
    logs = Place("logs")  # what the processes of its runs print
    table = Place("table.md")  # its report
