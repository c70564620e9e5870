"""Runs of run.py: processes of their own, and what must be equal when two of them come to the same."""

import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from mcl_lab import cli

RUN = Path(__file__).resolve().parents[1] / "run.py"

# Two networks of a thousand parameters: an epoch of 22 steps and three meta events takes two seconds.
SMALL = [
    "experiment=quickstart",
    "data.images.size=8",
    "data.batch_size=64",
    "pair.peers.a.widths=[4,8,8]",
    "pair.peers.b.widths=[4,8,8]",
    "trainer.epochs=2",
    "trainer.threads=1",
]
LMCL = [*SMALL, "loss.meta_event.every=8"]
BASELINE = [*SMALL, "loss=baseline", "data.batch_size=512"]  # three steps an epoch
ALONE = [word for word in BASELINE if "peers.b" not in word] + ["pair=single/resnet8"]


class Ended(NamedTuple):
    status: int
    out: str
    err: str


def start(arguments, cwd, **options) -> subprocess.Popen:
    """`python run.py ARGUMENTS` in the folder `cwd`; before: what starts it, python: options of Python."""
    return subprocess.Popen(
        [*options.pop("before", []), sys.executable, *options.pop("python", []), str(RUN), *arguments],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def end(process, timeout=300) -> Ended:
    """Wait for it."""
    out, err = process.communicate(timeout=timeout)
    return Ended(process.returncode, out, err)


@contextmanager
def nothing_from_outside():
    """A MonkeyPatch without the variables that would steer a run; torch's threads are afterwards as they were."""
    import torch  # here, as helpers of tests that need no torch import this module too

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "MLFLOW_", "MCL_LAB_"))]:
            patch.delenv(name)
        before = torch.get_num_threads()
        yield patch
        torch.set_num_threads(before)


def caller(patch, capfd):
    """call(*arguments) -> Ended: run.py's main in this process."""

    def call(*arguments) -> Ended:
        patch.setattr(sys, "argv", [str(RUN), *arguments])
        capfd.readouterr()
        status = cli.main(list(arguments))
        return Ended(status, *capfd.readouterr())

    return call


def heavy_imports(arguments, cwd) -> str:
    """What run.py's main prints, and on a last line its exit status with the packages that it has imported of those that
    take seconds."""
    code = (
        f"import sys; sys.path.insert(0, {str(RUN.parent)!r}); from mcl_lab import cli\n"
        f"status = cli.main({arguments!r})\n"
        "print(status, [name for name in ('torch', 'mlflow', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fork(function, *arguments) -> int:
    """Call a function of a module in a process that has already imported what takes a run seconds; returns its exit status,
    negative for a signal."""
    context = multiprocessing.get_context("forkserver")
    heavy = ["torch._dynamo", "torchvision", "sklearn.datasets", "sklearn.model_selection"]
    context.set_forkserver_preload([*heavy, "mcl_lab.tasks.train", "mcl_lab.cli"])
    process = context.Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def main_in(cwd, arguments, errors="output.txt") -> None:
    """For `fork`: run.py's main in the folder `cwd`, what it prints into files there; errors: the name of stderr's."""
    os.chdir(cwd)
    for number, name in ((1, "output.txt"), (2, errors)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = [str(RUN), *arguments]
    sys.exit(cli.main(arguments))


def only_folder(cwd) -> Path:
    (folder,) = [path for path in Path(cwd, "runs").iterdir() if path.is_dir()]
    return folder


def networks(folder):
    """The final networks' tensors by name."""
    from mcl_lab.runs.checkpoints import read

    (path,) = Path(folder, "checkpoints").iterdir()
    assert path.name.startswith("networks-")
    parts = read(path)["parts"]
    return {f"{part} {name}": value for part, state in parts.items() for name, value in state.items()}


def epochs(folder):
    """The journal's lines, but for what the clock says."""
    records = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["time_ms"]
        for name in ("train/seconds", "train/images_per_second", "train/evaluation_seconds"):
            del record["metrics"][name]
    return records


def assert_same_run(folder, other):
    """Equal weights to the bit, equal figures, each epoch once, and nothing left over."""
    mine, theirs = networks(folder), networks(other)
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not bool((mine[name] == theirs[name]).all())]
    assert not different
    assert epochs(folder) == epochs(other)
    assert result(folder)["final"] == result(other)["final"]
    assert not [*Path(folder).rglob(".*.tmp"), *Path(folder).rglob(".now.*"), *Path(folder).rglob("run.lock")]


def result(folder):
    return json.loads(Path(folder, "result.json").read_text())


def status(folder):
    return json.loads(Path(folder, "status.json").read_text())["state"]


def stop_itself(patch, step, *numbers) -> None:
    """This process sends itself these signals in that training step."""
    from mcl_lab.training.metrics import EpochMetrics

    original = EpochMetrics.add

    def add(metrics, terms, own_logits, labels, now):
        original(metrics, terms, own_logits, labels, now)
        if now == step:
            for number in numbers:
                os.kill(os.getpid(), number)

    patch.setattr(EpochMetrics, "add", add)


class Store:
    """MLflow's SQLite file, read by plain SQL."""

    def __init__(self, file: Path):
        self.file = file

    def runs(self) -> list[tuple[str, str]]:
        """(status, name) of each run."""
        return self._rows("select status, name from runs")

    def points(self) -> list[tuple]:
        """(name, step, value) of each point of each metric, in order."""
        return self._rows("select key, step, value from metrics order by key, step")

    def wait_for(self, status: str, seconds: float = 60) -> None:
        """Until the store's one run has that status."""
        deadline = time.monotonic() + seconds
        while (found := [status for status, _ in self.runs()]) != [status]:
            assert time.monotonic() < deadline, f"{found} in MLflow, not {status}"
            time.sleep(0.1)

    def _rows(self, query: str) -> list[tuple]:
        with closing(sqlite3.connect(self.file, timeout=30)) as database:
            return database.execute(query).fetchall()


def contents(folder, without=None):
    """Bytes and time of change of each file."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != without
    }


def senders_of(folder: Path) -> list[int]:
    """The senders of the run in `folder`, or of the runs under it, by their command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"mcl_lab.tracking.sender" in words and any(
            f"{os.fsdecode(word)}/".startswith(f"{folder}/") for word in words
        ):
            found.append(int(process.name))
    return found
