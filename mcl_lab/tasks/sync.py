"""task=sync: deliver to MLflow what runs recorded while it was away."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from mcl_lab.errors import InputError, RunFailed
from mcl_lab.host.files import exclusive
from mcl_lab.host.text import plain_text
from mcl_lab.runs.journal import read_record
from mcl_lab.runs.layout import RecordFolder
from mcl_lab.runs.records import is_running
from mcl_lab.tracking.delivery import is_delivered, note_failure, one_line
from mcl_lab.tracking.mlflow_calls import load_deliver, load_known_ids
from mcl_lab.tracking.moved import follow_move, lost_store
from mcl_lab.tracking.system import samples_left


def sync(
    config: Any,
    *,
    runs: Annotated[str, "not empty"] | Annotated[Sequence[str], "not empty"] = "runs",
    moved_from: Annotated[str, "not empty"] | None = None,
) -> None:
    """Deliver every record under `runs`, a run folder or a folder of them at any depth, or several, that its store lacks.

    What was delivered before is delivered again when the store has it no more, unless somebody deleted it there as a run.

    Each goes to the store that its own record names: `tracking.uri` of this command line is not used. User and password
    come from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. A run whose process is gone without a last word is
    recorded as FAILED; one that a living sender carries is left to it.

    moved_from: the folder that the current one was until it was moved. What records, ledgers and SQLite stores say of places
    in it then holds for the current folder.
    Raises InputError("task.runs") when there is no such folder, InputError("task.moved_from") when a store is in neither
    of the two, and RunFailed, after every run was tried, when some could not be delivered.
    """
    places = [Path(place) for place in ([runs] if isinstance(runs, str) else runs)]
    if not places:
        raise InputError("task.runs", "needs a run folder or a folder of them")
    for place in places:
        if not os.path.isdir(place):
            raise InputError("task.runs", f"there is no folder {place}; give a run folder or a folder of them")
    folders = sorted({record.parent for place in places for record in place.rglob(RecordFolder.record.name)})
    if moved_from is not None:
        follow_move(Path(moved_from).absolute(), Path.cwd(), folders, config.tracking.uri)
    known, failed = Known(), 0
    old: Counter[str] = Counter()
    for folder in folders:
        outcome = _sync_one(folder, known)
        failed += not outcome.well
        if outcome.news:
            print(plain_text(f"{folder}: {outcome.words}"), flush=True)
        else:
            old[outcome.words] += 1
    for words, count in old.items():
        print(plain_text(f"{count} {'run' if count == 1 else 'runs'} {words}"))
    if not folders:
        print(f"{', '.join(map(str, places))}: no records of runs")
    if failed:
        raise RunFailed(f"{failed} of {len(folders)} runs could not be delivered; their records are kept")


class Known:
    """What the stores have, each asked once: somebody may have deleted a database, or put an older copy in its place."""

    def __init__(self):
        self._ids: dict[tuple[str, str], set[str] | str] = {}

    def ids(self, record: dict[str, Any]) -> set[str] | str:
        """The ids of the records in the store of this one; or in one line why it cannot be asked."""
        place = (record["uri"], record["experiment"])
        if place not in self._ids:
            try:
                self._ids[place] = load_known_ids()(*place)
            except Exception as error:  # whatever a store may raise
                self._ids[place] = str(error) if isinstance(error, RunFailed) else one_line(error)
        return self._ids[place]


class Outcome(NamedTuple):
    """What became of one run: `well`: its store has it, as far as it has come; `news`: it gets a line of its own."""

    words: str
    well: bool = True
    news: bool = True


def _sync_one(folder: Path, known: Known) -> Outcome:
    try:
        return _deliver(folder, known)
    except OSError as error:  # a file system that fails, or may only be read
        return Outcome(f"not delivered: {one_line(error)}", well=False)


def _deliver(folder: Path, known: Known) -> Outcome:
    record = read_record(folder)
    if record is None:
        return Outcome(f"{RecordFolder.record.name} is damaged", well=False)
    uri = record["uri"]
    if uri is None:
        return Outcome("not tracked", news=False)
    if message := lost_store(folder, uri):
        return Outcome(f"not delivered: {message}", well=False)
    with exclusive(RecordFolder(folder).sender_lock, wait=False) as alone:
        if not alone:
            return Outcome("a sender is at work")
        vanished, lost = not is_running(folder), False
        if is_delivered(folder, vanished=vanished) and not samples_left(folder):
            ids = known.ids(record)
            if isinstance(ids, str):
                return Outcome(f"delivered before to {uri}, which cannot be asked now: {ids}", news=False)
            if record["id"] in ids:
                return Outcome(f"already in {uri}", news=False)
            lost = True
        deliver = load_deliver()  # costs seconds: only when there is something to deliver
        try:
            whole = deliver(folder, vanished=vanished)
        except Exception as error:  # whatever a store may raise, the other runs are still to be tried
            note_failure(folder, one_line(error), failures=1, ended=vanished)
            if not lost and is_delivered(folder, vanished=vanished):
                return Outcome(f"delivered to {uri}, but for metrics of the machine: {one_line(error)}")
            return Outcome(f"not delivered: {one_line(error)}", well=False)
    return Outcome(f"delivered to {uri}" + ("" if whole else ", as far as it has come"))
