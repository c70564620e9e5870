"""A user's folder on the login node of the test cluster, and the commands that are typed there."""

import io
import json
import os
import re
import subprocess
import sys
import time
from contextlib import chdir, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from training_runs import LMCL, RUN, Ended, end, start

from mcl_lab import cli

ONE_CORE = ["hydra/launcher=slurm", "hydra.launcher.cpus=1", "hydra.launcher.memory=2G"]
LONG = [
    *LMCL,
    "loss.meta_event.every=22",
    "trainer.epochs=6",
    "trainer.checkpoint_steps=5",
    "tracking=none",
]  # ten seconds


class Desk:
    python = sys.executable

    def __init__(self, folder: Path, cluster):
        self.folder = folder
        self.cluster = cluster
        self.environment = cluster.environment | {"OMP_NUM_THREADS": "1"}

    def start(self, *arguments) -> subprocess.Popen:
        return start(arguments, self.folder, env=self.environment)

    def call(self, *arguments, timeout=120) -> Ended:
        """`python run.py ARGUMENTS`, whatever comes of it."""
        return end(self.start(*arguments), timeout)

    def run(self, *arguments, timeout=120) -> str:
        """What `python run.py ARGUMENTS` prints, which must succeed."""
        ended = self.call(*arguments, timeout=timeout)
        assert ended.status == 0, ended
        return ended.out

    def look(self, *arguments) -> str:
        """As `run`, in this process: looks at a sweep are many, and the cores are the jobs'."""
        words, environment = [str(RUN), *arguments], patch.dict(os.environ, self.environment, clear=True)
        with chdir(self.folder), environment, patch("sys.argv", words), redirect_stdout(io.StringIO()) as said:
            assert cli.main(arguments) == 0
        return said.getvalue()

    def submit(self, name, *arguments) -> None:
        """A sweep of that name."""
        self.run(*ONE_CORE, "-m", f"sweep={name}", *arguments)

    def standings(self, name) -> list[dict]:
        """As `task=sweep` tells them; none before the sweep is launched."""
        if not (self.folder / "runs" / "sweeps" / name / "ledger.json").exists():
            return []
        return json.loads(self.look("task=sweep", f"task.sweep={name}", "task.format=json"))

    def wait(self, name, reached, limit=240) -> list[dict]:
        """The standings as soon as `reached(standings)`."""
        until = time.monotonic() + limit
        while not reached(standings := self.standings(name)):
            assert time.monotonic() < until, standings
            time.sleep(0.7)
        return standings

    def wait_all(self, name, limit=240) -> list[dict]:
        """The standings when all runs are finished, and their jobs, which are a moment later."""
        standings = self.wait(name, lambda runs: runs and all(run["state"] == "finished" for run in runs), limit)
        self.wait_for_queue()
        return standings

    def wait_for_queue(self, limit=120) -> None:
        """Until SLURM has nothing to do."""
        until = time.monotonic() + limit
        while jobs := self.cluster.jobs():
            assert time.monotonic() < until, jobs
            time.sleep(0.3)

    def wait_recorded(self, limit=120) -> None:
        """Until all of it is in the store."""
        until = time.monotonic() + limit
        while not re.fullmatch(r"(\d+ runs? already in .*\n)+", said := self.run("task=sync")):
            assert time.monotonic() < until, said

    def folder_of(self, run: dict) -> Path:
        return self.folder / run["folder"]

    def ledger(self, name) -> dict:
        return json.loads((self.folder / "runs" / "sweeps" / name / "ledger.json").read_text())
