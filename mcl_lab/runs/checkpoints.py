"""Checkpoints: whole states of a run, on disk.

A checkpoint is `step-<steps>-<whole epochs>-<checksum>.pt`, written aside and renamed, so that under its name there is
always a whole file; the checksum in the name (SHA-256, first 16 digits) tells later damage. Files hold tensors and plain
values and are read without unpickling code.
"""

import hashlib
import io
import logging
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from mcl_lab.errors import RunFailed

FORMAT = 1
KEPT = 2
NAME = re.compile(r"(step-\d+-\d+|networks)-([0-9a-f]{16})\.pt")
log = logging.getLogger(__name__)


class UnusableCheckpoint(Exception):
    """A checkpoint is not there, damaged, none, or newer than this code; the message names it and says which, in one line."""


class Checkpoints:
    """The checkpoints of one run.

    folder: made when the first is written. write: puts bytes under a path atomically and durably.
    run_key: goes into every file; one of another key counts as damaged.
    facts: plain values that go into every file too, what a reader needs besides the state.
    """

    def __init__(self, folder: Path, write: Callable[[Path, bytes], None], *, run_key: str, facts: dict):
        self.folder = folder
        self.write = write
        self.run_key = run_key
        self.facts = facts

    def save(self, state: dict, epochs: int, step: int) -> Path:
        """Write the state after `step` steps, of which `epochs` whole epochs, and drop all but the last two and any of the
        same step: at an epoch's end there may be one from before its evaluation. Raises OSError, the older ones whole."""
        path = self._write(f"step-{step:09d}-{epochs:05d}", state)
        for earlier in self.folder.glob(f"step-{step:09d}-*.pt"):
            if earlier != path:
                earlier.unlink()
        for needless in [*_steps(self.folder)[:-KEPT], *self.folder.glob(".*.tmp")]:  # and what a crash left behind
            needless.unlink(missing_ok=True)
        return path

    def finish(self, networks: dict) -> Path:
        """Write what a finished run keeps, its networks; see also `drop_steps`, for when its last word is written."""
        return self._write("networks", networks)

    def newest(self) -> dict | None:
        """The newest intact state, or None when none was ever written. A damaged file is reported and passed over.

        Raises RunFailed when there are checkpoints and none is intact.
        """
        paths = _steps(self.folder)
        for path in reversed(paths):
            try:
                return self._own(path)
            except UnusableCheckpoint as damage:
                log.warning("%s; going back to the checkpoint before it", damage)
        if paths:
            raise RunFailed(
                f"no intact checkpoint is left in {self.folder}; to start over, delete the run folder {self.folder.parent}"
            )
        return None

    def _own(self, path: Path) -> dict:
        state = read(path)
        if state.get("run_key", self.run_key) != self.run_key:
            raise UnusableCheckpoint(f"{path} is of a run with another config")
        return state

    def _write(self, stem: str, state: dict) -> Path:
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "run_key": self.run_key, **self.facts, **state}, buffer)
        content = buffer.getvalue()
        path = self.folder / f"{stem}-{_checksum(content)}.pt"
        self.folder.mkdir(exist_ok=True)
        self.write(path, content)
        return path


def drop_steps(folder: Path) -> None:
    """Drop from `folder` what only going on would need, where the networks of a finished run are."""
    if networks_file(folder) is not None:
        with suppress(OSError):  # a run is no less finished where nothing can be deleted
            for path in _steps(folder):
                path.unlink(missing_ok=True)


def checksum_of_weights(parts: dict[str, dict[str, torch.Tensor]]) -> str:
    """SHA-256 of the tensors in the states of parts: names, types, shapes and every bit, in the order of their names."""
    content = hashlib.sha256()
    for part in sorted(parts):
        for name, value in sorted(parts[part].items()):
            content.update(f"{part} {name} {value.dtype} {tuple(value.shape)}\n".encode())
            content.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def networks_file(folder: Path) -> Path | None:
    """The networks of a finished run in `folder` (a run's `checkpoints`); None when there are none."""
    found = sorted(path for path in folder.glob("networks-*.pt") if NAME.fullmatch(path.name))
    return found[0] if found else None


def newest_file(folder: Path) -> Path:
    """The networks of a finished run, else the newest checkpoint, in `folder` (a run's `checkpoints`).

    Raises UnusableCheckpoint when there is none.
    """
    found = networks_file(folder) or next(reversed(_steps(folder)), None)
    if found is None:
        raise UnusableCheckpoint(f"there is no checkpoint in {folder}")
    return found


def read(path: Path) -> dict:
    """The state in a checkpoint file, on the CPU.

    Raises UnusableCheckpoint when the file is not a checkpoint, is damaged, or was written by newer code.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnusableCheckpoint(f"cannot read {path}: {error.strerror}") from error
    name = NAME.fullmatch(path.name)
    if name and _checksum(content) != name[2]:
        raise UnusableCheckpoint(f"{path} is damaged, its content does not have the checksum in its name")
    try:
        _refuse_compressed(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        newer = dict(state)["format"] > FORMAT
    except Exception as error:  # torch.load raises many kinds for what is not a checkpoint of plain values
        raise UnusableCheckpoint(f"{path} is not a checkpoint of mcl_lab") from error
    if newer:
        raise UnusableCheckpoint(f"{path} was written by a newer mcl_lab (format {state['format']})")
    return state


def _steps(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.pt") if NAME.fullmatch(path.name))


def _refuse_compressed(content: bytes) -> None:
    """PyTorch compresses nothing: what is larger unpacked was made to fill the memory."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(part.file_size for part in archive.infolist()) > len(content):
            raise ValueError("it is larger unpacked")


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
