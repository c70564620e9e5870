"""Which runs a report is about: where they are read, what is read of them, and which of them are wanted."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from mcl_lab.config.nearest import nearest
from mcl_lab.errors import InputError
from mcl_lab.host.files import read_json
from mcl_lab.host.screen import say
from mcl_lab.results.rows import Peer, Run
from mcl_lab.runs.folders import SWEEPS, sweep_folder
from mcl_lab.runs.journal import SWEEP_TAG, read_record
from mcl_lab.runs.layout import RecordFolder, SweepFolder
from mcl_lab.runs.records import RecordedRun, RunFolders, StoreUnavailable
from mcl_lab.tracking.delivery import NOT_INSTALLED

if TYPE_CHECKING:
    from mcl_lab.tracking.mlflow.reader import MlflowRuns


def read_runs(config: DictConfig, source: str, folder: Path) -> tuple["MlflowRuns | RunFolders", list[Run]]:
    """(what was read, the runs in it). source: mlflow, folders, or auto: the folders when MLflow has nothing of ours.

    Raises InputError when there is nothing to read.
    """
    if source != "folders":
        try:
            store = _store(config)
            recorded = store.runs()
            if recorded or source == "mlflow":
                _tell_missing(store, {run.id for run in recorded}, folder)
                return store, _described(recorded)
            reason = f"{store} has no runs of mcl_lab"
        except StoreUnavailable as error:
            if source == "mlflow":
                raise InputError("tracking.uri", f"{error}; task.source=folders reads the run folders") from error
            reason = str(error)
        say(f"not from MLflow: {reason}")
    if not os.path.isdir(folder):
        raise InputError("task.runs", f"there is no folder {folder}; name the folder of the run folders")
    return RunFolders(folder), read_folders(folder)


def read_folders(folder: Path) -> list[Run]:
    """The runs of all run folders below `folder`."""
    return _described(RunFolders(folder).runs())


def read_beside(folder: Path) -> list[Run]:
    """The run in `folder` and those in the folders beside it, whatever cannot be read left out without a word."""
    return _described(RunFolders(folder.parent, below=f"*/{RecordFolder.record.name}").runs(), tell=lambda line: None)


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


def _store(config: DictConfig) -> "MlflowRuns":
    if config.tracking.uri is None:
        raise StoreUnavailable("tracking.uri is null")
    try:
        from mcl_lab.tracking.mlflow.reader import MlflowRuns  # costs seconds
    except ImportError:
        raise StoreUnavailable(NOT_INSTALLED) from None
    return MlflowRuns(config.tracking.uri, config.tracking.experiment)


def _described(recorded: Sequence[RecordedRun], tell: Callable[[str], None] = say) -> list[Run]:
    """The runs as tables see them; a record that lacks what they need is passed over, and that is said."""
    runs = []
    for record in recorded:
        try:
            runs.append(_run(record))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            tell(f"{record.name} is left out: its record does not tell its recipe and peers, as that of older code")
    return runs


def _run(record: RecordedRun) -> Run:
    tags = record.tags
    recipe = {**json.loads(tags["recipe"])}
    float(recipe.get("data.validation") or 0)  # the one leaf that is counted with
    peers = {
        key: Peer(
            network=str(node["name"]),
            config=node,
            figures={
                name.removeprefix(f"{key}/"): value
                for name, value in record.final.items()
                if name.startswith(f"{key}/") and value is not None
            },
        )
        for key, node in sorted(json.loads(tags["peers"]).items())
    }
    return Run(
        name=record.name,
        run_key=record.run_key,
        repeat_key=tags["repeat_key"],
        recipe_key=tags["recipe_key"],
        recipe=recipe,
        changed={key: value for key, value in record.params.items() if "." in key},
        pair=tags["pair"],
        kind=tags["kind"],
        loss=tags["loss"],
        dataset=tags["dataset"],
        seed=int(tags["seed"]),
        peers=peers,
        state=record.state,
        message=record.message,
        epochs=record.epochs,
        commit=tags["git_commit"],
        created_ms=record.created_ms,
        tags=tags,
        place=record.place,
    )


def choose(
    runs: Sequence[Run], *, dataset: str | None, sweep: str | None, tag: Mapping[str, object], folder: Path
) -> list[Run]:
    """The runs of that data set, sweep and tags. Raises InputError for a filter that leaves none, with the nearest name."""
    if sweep is not None:
        runs = _of_sweep(runs, sweep, folder)
    if dataset is not None:
        runs = _having("task.dataset", dataset, [(run, run.dataset) for run in runs])
    for name, value in tag.items():
        values = [(run, run.tags[name]) for run in runs if name in run.tags]
        if not values:
            names = {name for run in runs for name in run.tags}
            raise InputError(f"task.tag.{name}", f"no run has such a tag{nearest(name, names)}{_listed(names)}")
        runs = _having(f"task.tag.{name}", str(value), values)
    return list(runs)


def _having(key: str, wanted: str, values: Sequence[tuple[Run, str]]) -> list[Run]:
    found = [run for run, value in values if value == wanted]
    if not found:
        there = {value for _, value in values}
        raise InputError(key, f"no run has {wanted!r}{nearest(wanted, there)}{_listed(there)}")
    return found


def _of_sweep(runs: Sequence[Run], sweep: str, folder: Path) -> list[Run]:
    """A sweep's runs by its ledger, whose runs may be those of other sweeps too; without one by their tag."""
    ledger = read_json(SweepFolder(sweep_folder(sweep, folder)).ledger)
    if ledger is None:
        members = [(run, run.tags.get(SWEEP_TAG)) for run in runs]
        found = [run for run, name in members if name == sweep]
        known = {name for _, name in members if name} | {
            path.parent.name for path in (folder / SWEEPS).glob(f"*/{SweepFolder.ledger.name}")
        }
        hint = f"{nearest(sweep, known)}{_listed(known)}" if known else f"; there are none in {folder / SWEEPS}"
        if not found:
            raise InputError("task.sweep", f"there is no sweep {sweep!r}{hint}")
        return found
    keys = {entry["run_key"]: Path(entry["folder"]).name for entry in ledger["runs"]}
    found = [run for run in runs if run.run_key in keys]
    begun = {run.run_key for run in found}
    waiting = [name for key, name in keys.items() if key not in begun]
    if not found:
        raise InputError("task.sweep", f"none of the {len(keys)} runs of {sweep} has begun")
    if waiting:
        say(f"{len(waiting)} of the {len(keys)} runs of {sweep} have not begun: {', '.join(waiting)}")
    return found


def _listed(names: set[str]) -> str:
    shown = sorted(names)
    return f"; there are {', '.join(shown[:8])}{', ...' if len(shown) > 8 else ''}" if shown else ""
