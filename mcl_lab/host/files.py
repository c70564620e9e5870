"""Files that other processes read while they are written: each is replaced whole or not at all."""

import errno
import fcntl
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, get_args, get_origin

from mcl_lab.errors import InputError


def write_atomically(path: Path, content: str | bytes, *, shared: bool = False) -> None:
    """Replace `path` by `content`, text as UTF-8; after a crash at any moment it holds the old content or the new one.

    One writer at a time: the temporary file beside it has a fixed name, so that crashes leave at most one behind.
    `shared`: others may write it at the same moment, and the last to come stays; the temporary file then has a name of
    its own.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp" if shared else f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()  # on a full disk it would take the room that others need
        raise
    _sync_folder(path.parent)  # the new name itself must survive a power cut


def expanded(path: str, key: str) -> Path:
    """A path that a setting names, with the home folder for `~`. Raises InputError `key` when there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = Path(path).parts[0]
        remedy = f"write the whole path, or ./{home} for a folder of that name"
        raise InputError(key, f"there is no home folder that {home} could stand for; {remedy}") from None


def write_json(path: Path, value: dict[str, Any], *, shared: bool = False) -> None:
    """`write_atomically` of a JSON object."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text, shared=shared)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None when there is no such file or something else damaged it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def has_types(value: dict[str, Any], types: Mapping[str, Any]) -> bool:
    """Whether a JSON object holds what it should: of one that was damaged, or that somebody else made, nothing is relied on.

    types: by name; of an object within it `dict[str, KIND]`.
    """
    return all(name in value and _is_of(value[name], kind) for name, kind in types.items())


@contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`, among processes and threads, for the body; it ends with the process at the latest.

    Yields True when held; False when `wait` is false and somebody else holds it. The file is left where it is: to
    delete it would let two processes lock two files of one name.
    """
    with open(path, "a", encoding="utf-8") as file:
        yield _lock(file.fileno(), wait=wait)


@contextmanager
def alone_in(path: Path) -> Iterator[TextIO]:
    """Hold the lock file `path`, made when missing, for the body, which may read it, write it and delete it.

    As `exclusive`, but for what is deleted by whoever is done with it: those who waited go on with the next file of that
    name.
    """
    while True:
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8", errors="replace") as file:
            # A file system without locks, whichever way it says so: what is guarded are moments.
            with suppress(OSError):
                _lock(file.fileno(), wait=True)
            if not _is_at(path, file.fileno()):  # deleted while this process waited for it
                continue
            yield file
            return


def _lock(descriptor: int, *, wait: bool) -> bool:
    """`flock` an open file until it is closed; False when `wait` is false and somebody else holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        # Some parallel file systems are mounted without flock. What it guards here are moments: better unguarded
        # than no run.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(isinstance(item, get_args(kind)[1]) for item in value.values())
    return isinstance(value, kind)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
