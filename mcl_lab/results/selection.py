"""Which runs a report is about: those that are recorded somewhere, and which of them are wanted."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from mcl_lab.config.nearest import nearest
from mcl_lab.errors import InputError
from mcl_lab.host.files import read_json
from mcl_lab.host.screen import say
from mcl_lab.results.reported_runs import ReportedRun, as_reported, baselines, once, values_of
from mcl_lab.runs.folders import SWEEPS, sweep_folder
from mcl_lab.runs.journal import SWEEP_TAG, read_record
from mcl_lab.runs.layout import RecordFolder, SweepFolder
from mcl_lab.runs.records import RecordedRun, RunFolders, StoreUnavailable
from mcl_lab.tracking.delivery import NOT_INSTALLED

if TYPE_CHECKING:
    from mcl_lab.tracking.mlflow.reader import MlflowRuns

LONGEST_LIST = 8  # names that a message lists


def read_runs(config: DictConfig, source: str, folder: Path) -> tuple["MlflowRuns | RunFolders", list[ReportedRun]]:
    """(where they were read, all runs there). source: `mlflow`, `folders` (those in `folder`), or `auto`: the folders when
    MLflow has nothing of ours.

    Raises InputError for a store or a folder that cannot be read.
    """
    if source != "folders":
        try:
            store = _store(config)
            recorded = store.runs()
            if recorded or source == "mlflow":
                _tell_missing(store, {run.id for run in recorded}, folder)
                return store, _reported(recorded)
            reason = f"{store} has no runs of mcl_lab"
        except StoreUnavailable as error:
            if source == "mlflow":
                raise InputError("tracking.uri", f"{error}; task.source=folders reads the run folders") from error
            reason = str(error)
        say(f"not from MLflow: {reason}")
    if not os.path.isdir(folder):
        raise InputError("task.runs", f"there is no folder {folder}; name the folder of the run folders")
    return RunFolders(folder), read_folders(folder)


def read_folders(folder: Path) -> list[ReportedRun]:
    """The runs of all run folders below `folder`."""
    return _reported(RunFolders(folder).runs())


def choose(
    runs: Sequence[ReportedRun], *, dataset: str | None, sweep: str | None, tag: Mapping[str, object], folder: Path
) -> list[ReportedRun]:
    """The runs that are of that data set, of that sweep, whose ledger is in `folder`, and have those tags.

    Raises InputError for the first of these that leaves no run, with the nearest name that would.
    """
    if sweep is not None:
        ledger = read_json(SweepFolder(sweep_folder(sweep, folder)).ledger)
        runs = _in_ledger(runs, sweep, ledger) if ledger else _tagged_with_sweep(runs, sweep, folder)
    if dataset is not None:
        runs = _with_value("task.dataset", dataset, [(run, run.dataset) for run in runs])
    for name, value in tag.items():
        tagged = [(run, run.tags[name]) for run in runs if name in run.tags]
        if not tagged:
            names = {name for run in runs for name in run.tags}
            raise InputError(f"task.tag.{name}", f"no run has such a tag{_instead(name, names)}")
        runs = _with_value(f"task.tag.{name}", str(value), tagged)
    return list(runs)


def baselines_beside(folder: Path, metric: str) -> dict[str, list[float]]:
    """For each peer of the finished run in `folder` that metric of its baselines, as a report has them, among the finished
    runs in the folders beside it. What cannot be read is left out without a word."""
    recorded = RunFolders(folder.parent, below=f"*/{RecordFolder.record.name}").runs()
    finished = [run for run in _reported(recorded, tell=lambda line: None) if run.finished]
    own = next((run for run in finished if Path(run.place) == folder), None)
    if own is None:
        return {}
    runs = once(finished)
    return {key: values_of(metric, baselines(runs, own, peer.config), peer.config) for key, peer in own.peers.items()}


def _store(config: DictConfig) -> "MlflowRuns":
    if config.tracking.uri is None:
        raise StoreUnavailable("tracking.uri is null")
    try:
        from mcl_lab.tracking.mlflow.reader import MlflowRuns  # costs seconds
    except ImportError:
        raise StoreUnavailable(NOT_INSTALLED) from None
    return MlflowRuns(config.tracking.uri, config.tracking.experiment)


def _tell_missing(store: "MlflowRuns", recorded: set[str], folder: Path) -> None:
    """Say how many runs of the folder the store should have and has not: a database may have been deleted. recorded: the ids
    that it is known to have; runs that somebody deleted there are not missing."""
    records = [
        record
        for path in folder.glob(f"*/{RecordFolder.record.name}")
        if (record := read_record(path.parent)) is not None
    ]
    ours = {
        record["id"] for record in records if (record["uri"], record["experiment"]) == (store.uri, store.experiment)
    }
    missing = ours - recorded
    if missing and (missing := missing - store.ids()):
        say(f"{len(missing)} of the runs in {folder} are not there (yet): python run.py task=sync delivers them")


def _reported(recorded: Iterable[RecordedRun], tell: Callable[[str], None] = say) -> list[ReportedRun]:
    """The runs as a report sees them; a record that lacks what it needs is passed over, and that is said."""
    runs = []
    for record in recorded:
        try:
            runs.append(as_reported(record))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            tell(f"{record.name} is left out: its record does not tell its recipe and peers, as that of older code")
    return runs


def _in_ledger(runs: Sequence[ReportedRun], sweep: str, ledger: Mapping) -> list[ReportedRun]:
    """A sweep's runs by its ledger, which may be those of other sweeps too; those that have not begun are named."""
    names = {entry["run_key"]: Path(entry["folder"]).name for entry in ledger["runs"]}
    found = [run for run in runs if run.run_key in names]
    if not found:
        raise InputError("task.sweep", f"none of the {len(names)} runs of {sweep} has begun")
    begun = {run.run_key for run in found}
    if waiting := [name for key, name in names.items() if key not in begun]:
        say(f"{len(waiting)} of the {len(names)} runs of {sweep} have not begun: {', '.join(waiting)}")
    return found


def _tagged_with_sweep(runs: Sequence[ReportedRun], sweep: str, folder: Path) -> list[ReportedRun]:
    """A sweep's runs by their tag, where there is no ledger: a run has that of the sweep that began it."""
    found = [run for run in runs if run.tags.get(SWEEP_TAG) == sweep]
    if not found:
        known = {name for run in runs if (name := run.tags.get(SWEEP_TAG))}
        known |= {path.parent.name for path in (folder / SWEEPS).glob(f"*/{SweepFolder.ledger.name}")}
        hint = _instead(sweep, known) if known else f"; there are none in {folder / SWEEPS}"
        raise InputError("task.sweep", f"there is no sweep {sweep!r}{hint}")
    return found


def _with_value(key: str, wanted: str, valued: Sequence[tuple[ReportedRun, str]]) -> list[ReportedRun]:
    """The runs with that value. Raises InputError(key) when there is none."""
    found = [run for run, value in valued if value == wanted]
    if not found:
        raise InputError(key, f"no run has {wanted!r}{_instead(wanted, {value for _, value in valued})}")
    return found


def _instead(name: str, known: set[str]) -> str:
    """What could have been meant, and what there is."""
    shown = sorted(known)
    more = ", ..." if len(shown) > LONGEST_LIST else ""
    listed = f"; there are {', '.join(shown[:LONGEST_LIST])}{more}" if shown else ""
    return f"{nearest(name, known)}{listed}"
