"""The machine beside a run: its CPU, memory, disk, network and GPUs, sampled by the run's sender.

    system.jsonl   one line a sample: {"time_ms", "metrics": {"system/NAME": value}}. The number of the line is its step.

The metrics are those of MLflow's own monitors, of the whole machine, so that its UI knows them. MLflow's own sampling is not
used: it ends for ever with the first request that fails. Samples are the least of a record: nothing waits for them, and what
fails here costs a line in the sender's log.
"""

import importlib.util
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mcl_lab.errors import InputError
from mcl_lab.host.clock import now_ms
from mcl_lab.host.files import has_types
from mcl_lab.runs.journal import read_record
from mcl_lab.runs.layout import RecordFolder
from mcl_lab.tracking.delivery import one_line, read_delivery, write_delivery

PREFIX = "system/"  # of names; MLflow shows what begins so in a tab of its own
LEAST = 1.0  # seconds: a shorter sample says nothing
POLL = 1.0  # seconds between two looks whether the run is over
LONGEST_STOP = 2.0  # seconds that are waited for a last sample
MOST_BYTES = 2**26  # of the file; a day and a half at one sample a second
MOST_POINTS = 1000  # in one request, by MLflow's limits

Point = tuple[str, float, int, int]  # name, value, time in ms, step

_NAME = re.compile(PREFIX + r"\w{1,200}", re.ASCII)
_TYPES = {"time_ms": int, "metrics": dict[str, int | float]}


def refuse_missing(seconds: float | None) -> None:
    """Raise InputError("tracking.system") when samples are wanted and cannot be taken."""
    if seconds is not None and importlib.util.find_spec("psutil") is None:
        remedy = "pip install -c constraints.txt -e '.[system]'"
        raise InputError("tracking.system", f"needs psutil: {remedy}; or without: tracking.system=null")


class Sampler:
    """Samples the machine every `seconds` until the run is over, in a thread: a slow store may hold the sender for minutes."""

    def __init__(self, folder: Path, seconds: float, is_over: Callable[[], bool], log: Callable[[str], None]):
        """`is_over` tells whether the run is; it may raise OSError. `log` takes what went wrong, once."""
        self._path, self._seconds, self._is_over, self._log = RecordFolder(folder).samples, seconds, is_over, log
        self._kinds: list[Callable[[], Any]] = []  # MLflow's monitors
        self._gpu_kinds: list[Callable[[], Any]] = []  # of which the first that can be had is taken
        self._monitors: list[Any] = []
        self._said = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """For the holder of the sender's lock, when MLflow is imported: two threads at its modules might meet them half made."""
        try:
            from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
            from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
            from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
            from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
            from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

            self._kinds = [CPUMonitor, DiskMonitor, NetworkMonitor]
            self._gpu_kinds = [GPUMonitor, ROCMMonitor]
            self._thread.start()
        except Exception as error:  # psutil is missing, or broken; no thread can be had
            self._say(error)

    def stop(self) -> None:
        """The run is over: what is left of it is sampled. Returns at once, or soon when the disk or a monitor hangs."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(LONGEST_STOP)

    def _run(self) -> None:
        self._make_monitors()
        self._sample()  # not kept: the first look at a CPU tells nothing
        before, over = time.monotonic(), False
        while not over:
            due = before + self._seconds
            over = self._stopped.wait(max(0.0, min(POLL, due - time.monotonic()))) or self._run_is_over()
            now = time.monotonic()
            if now >= due or over and now - before >= LEAST:
                before = now
                try:
                    self._append(self._sample())
                except Exception as error:  # a full disk, perhaps not for long
                    self._say(error)

    def _make_monitors(self) -> None:
        for kind in self._kinds:
            try:
                self._monitors.append(kind())
            except Exception as error:
                self._say(error)
        for kind in self._gpu_kinds:
            try:
                self._monitors.append(kind())
                return
            except Exception:  # no such GPU, or not the package to ask it
                continue

    def _sample(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for monitor in self._monitors:
            try:
                monitor.collect_metrics()
                metrics |= monitor.aggregate_metrics()
            except Exception as error:
                self._say(error)
            monitor.clear_metrics()
        return {PREFIX + name: value for name, value in metrics.items() if math.isfinite(value)}

    def _append(self, metrics: Mapping[str, float]) -> None:
        line = json.dumps({"time_ms": now_ms(), "metrics": metrics}, allow_nan=False) + "\n"
        with open(self._path, "a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size + len(line) >= MOST_BYTES:
                raise RuntimeError(f"{self._path.name} is full")
            file.seek(max(0, size - 1))
            half = file.read(1) not in (b"", b"\n")  # a line left by a crash, or a disk that was full
            file.write(f"\n{line}".encode() if half else line.encode())

    def _run_is_over(self) -> bool:
        try:
            return self._is_over()
        except OSError:  # a file system that stumbles
            return False

    def _say(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            self._log(f"system metrics: {one_line(error)}")


def carry_samples(
    send: Callable[[list[Point]], None], folder: Path, delivery: dict[str, Any], seconds: float = math.inf
) -> None:
    """Send what `delivery` does not remember as sent, for about so many seconds, and remember it there and on the disk."""
    before, deadline = delivery["samples"], time.monotonic() + seconds
    try:
        for line, points in _batches(folder, after=before):
            send(points)
            delivery["samples"] = line
            if time.monotonic() > deadline:
                return
    finally:
        if delivery["samples"] != before:
            write_delivery(folder, delivery)


def samples_left(folder: Path | str) -> bool:
    """Whether the store of a tracked run lacks samples that its folder has."""
    record = read_record(folder)
    return (
        record is not None
        and record["uri"] is not None
        and read_delivery(folder, record)["samples"] < len(_lines(folder))
    )


def _batches(folder: Path, *, after: int) -> Iterator[tuple[int, list[Point]]]:
    """What was sampled after line `after`, in as few requests as MLflow allows: (the last line of the request, its points).

    Damaged lines have no points. Of a file that has become shorter than that, all.
    """
    lines = _lines(folder)
    points: list[Point] = []
    for step in range(after + 1 if after <= len(lines) else 1, len(lines) + 1):
        more = _points(lines[step - 1], step)
        if len(points) + len(more) > MOST_POINTS:
            yield step - 1, points
            points = []
        points += more
    if lines and after != len(lines):
        yield len(lines), points


def _lines(folder: Path | str) -> list[bytes]:
    """Without one that is still being written, or left half by a crash."""
    try:
        with open(RecordFolder(folder).samples, "rb") as file:
            return file.read(MOST_BYTES).split(b"\n")[:-1]
    except OSError:  # mostly there is none; one that cannot be read must not stop the rest
        return []


def _points(line: bytes, step: int) -> list[Point]:
    """Those of a sample; of a line that is damaged, or that somebody else made, what MLflow might refuse is left out."""
    try:
        sample = json.loads(line)
    except (ValueError, RecursionError):
        return []
    if not isinstance(sample, dict) or not has_types(sample, _TYPES) or not 0 <= sample["time_ms"] < 2**53:
        return []
    named = {name: value for name, value in sample["metrics"].items() if _NAME.fullmatch(name)}
    # This leaves out NaN, too.
    numbers = {name: value for name, value in named.items() if not isinstance(value, bool) and abs(value) < 2**63}
    points = [(name, value, sample["time_ms"], step) for name, value in numbers.items()]
    return points[:MOST_POINTS]
