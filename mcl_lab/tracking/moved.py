"""Projects that were moved to another folder.

Records name their store and their sweep by absolute paths, ledgers of sweeps where they were launched, and an SQLite store where
its artifacts are. When none of that is there any more, MLflow would make the old folder again and go on in it.
"""

import os
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mcl_lab.config.sweeps import as_typed
from mcl_lab.errors import InputError
from mcl_lab.host.files import exclusive, read_json, write_json
from mcl_lab.host.uri import sqlite_file, stored_uri
from mcl_lab.runs.layout import RecordFolder, SweepFolder

FOLDER = "mlartifacts"  # the folder beside an SQLite file; without a server artifacts are files
FILES = (RecordFolder.record, RecordFolder.delivery, SweepFolder.ledger, SweepFolder.configs)
COLUMNS = ("artifact_location", "artifact_uri", "source", "storage_location")  # of MLflow's tables, that hold places


def refuse_moved(uri: str | None, experiment: str) -> None:
    """Raise InputError("tracking.uri") for an SQLite store, by its URI, that was moved without its artifacts' places."""
    database = None if uri is None else sqlite_file(stored_uri(uri))
    if database is None or not database.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened:
            query = "select artifact_location from experiments where name = ?"
            found = opened.execute(query, [experiment]).fetchone()
    except sqlite3.Error:  # no store of MLflow's, or a new one
        return
    if found and (message := lost_artifacts(database, found[0])):
        raise InputError("tracking.uri", message)


def lost_artifacts(database: Path, location: str) -> str | None:
    """One line, when the artifacts of an experiment in an SQLite file are to be in a folder that the file was moved away from.

    location: of the artifacts, as MLflow has it.
    """
    place, here = Path(unquote(urlsplit(location).path)), database.parent
    if urlsplit(location).scheme not in ("", "file") or not place.is_absolute() or os.path.exists(place):
        return None
    moved_along = [parent for parent in place.parents if (here / place.relative_to(parent)).exists()]
    old = moved_along[0] if moved_along else place.parent
    if old.resolve() == here.resolve() or not moved_along and place.name != FOLDER:
        return None  # nothing has been put there yet
    return f"{database} has its artifacts in {place}, which is gone; {remedy(old, here)}"


def lost_store(folder: Path, uri: str) -> str | None:
    """One line, when the SQLite store that the record in a folder names is gone, and not only deleted: its folder is gone
    too, or such a file lies where the record was moved to."""
    database = sqlite_file(uri)
    if database is None or database.exists():
        return None
    now = [place for place in folder.absolute().parents if (place / database.name).is_file()]
    if not now and database.parent.is_dir():
        return None
    return f"there is no {database} any more; {remedy(database.parent, now[0] if now else None)}"


def remedy(old: Path, new: Path | None) -> str:
    """What to do when a folder was moved."""
    there = f"to {new}, give there" if new else "elsewhere, give there"
    return f"if {old} was moved {there}: task=sync task.moved_from={as_typed(str(old))}"


def follow_move(old: Path, new: Path, folders: Iterable[Path], uri: str | None) -> None:
    """Have what names places in the folder `old` name those in `new` instead: records and ledgers in `folders`, their SQLite
    stores, and that of `uri`, if it is there.

    Raises InputError("task.moved_from"), before anything is written, when a store is not where it should be now.
    """
    if new.is_relative_to(old):
        raise InputError("task.moved_from", f"must be a folder that {new} is not in")
    before = {
        file: content for folder in folders for place in FILES if (content := read_json(file := folder / place.name))
    }
    after = {file: _followed(content, str(old), str(new)) for file, content in before.items()}
    changed = {file: content for file, content in after.items() if content != before[file]}
    named = {content["uri"] for content in changed.values() if isinstance(content.get("uri"), str)}
    stores = {store for name in named if (store := sqlite_file(name)) and store.is_relative_to(new)}
    if missing := [store for store in stores if not store.is_file()]:
        raise InputError("task.moved_from", f"there is no {missing[0]}; give the command in what {old} is now")
    own = None if uri is None else sqlite_file(stored_uri(uri))
    for store in stores | ({own} if own and own.is_file() else set()):
        _follow_in(store, old, new)
    for file, content in changed.items():
        with exclusive(RecordFolder(file.parent).sender_lock):
            write_json(file, content)


def _followed(value: Any, old: str, new: str) -> Any:
    """A value of JSON, in which paths and SQLite URIs, keys too, that lie in one folder do so in another."""
    if isinstance(value, dict):
        return {_followed(name, old, new): _followed(item, old, new) for name, item in value.items()}
    if isinstance(value, list):
        return [_followed(item, old, new) for item in value]
    found = re.fullmatch(rf"(sqlite[^:]*:///)?{re.escape(old)}(/.*)?", value) if isinstance(value, str) else None
    return f"{found[1] or ''}{new}{found[2] or ''}" if found else value


def _follow_in(database: Path, old: Path, new: Path) -> None:
    """MLflow has no call that changes where artifacts are."""
    with closing(sqlite3.connect(database, timeout=60)) as opened, opened:
        tables = [name for (name,) in opened.execute("select name from sqlite_master where type = 'table'")]
        for table in filter(str.isidentifier, tables):
            for column in {row[1] for row in opened.execute(f'pragma table_info("{table}")')} & {*COLUMNS}:
                for before, after in ((str(old), str(new)), (old.as_uri(), new.as_uri())):
                    opened.execute(
                        f'update "{table}" set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?',
                        [after, len(before) + 1, len(before) + 1, f"{before}/"],
                    )
