"""What a job of SLURM does: it launches its runs, as the local launcher does on any machine, and says how they ended."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcl_lab.config.stored import parse_config
from mcl_lab.config.sweeps import as_typed
from mcl_lab.errors import Interrupted, RunFailed
from mcl_lab.host.output import lasting_output
from mcl_lab.launch.ledger import Ledger
from mcl_lab.launch.ledger_run import LedgerRun
from mcl_lab.launch.local import LocalLauncher
from mcl_lab.launch.slurm import as_it_was
from mcl_lab.launch.standing import KILLED, is_stop
from mcl_lab.runs.folders import write_config
from mcl_lab.runs.layout import SweepFolder
from mcl_lab.sweeping.record import RUN, settle_from_within
from mcl_lab.sweeping.sweep import run_of
from mcl_lab.tracking.delivery import wait_sender

LAST_WORDS = 10.0  # seconds that a job stays at most until its senders are done


@dataclass(frozen=True)
class SlurmJob:
    """Called in a job, as it was pickled at submission; every start of the job goes on with what is not finished. It relies
    on nothing that newer code may have written since.

    sweep: the sweep's folder. configs: the config of each run, as YAML, by the run's folder. options: of run.py.
    gpus: whether the job has any. restarts: how often a run that was killed is started again.
    """

    sweep: str
    configs: dict[str, str]
    options: tuple[str, ...]
    gpus: bool
    restarts: int

    @lasting_output()
    def __call__(self) -> None:
        """Train to the end. Raises RunFailed when a run failed, and SystemExit with a status above 128 when the job was
        asked to stop before."""
        if not self.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # not every site hides those that nobody asked for
        sweep = Path(self.sweep)
        folder = SweepFolder(sweep).jobs / job_name()
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder)
        configs = {Path(place): parse_config(text, folder, "sweep") for place, text in self.configs.items()}
        runs = ledger.enter(run_of(config, place, sweep) for place, config in configs.items())
        try:
            self._train(ledger, runs)
        except Interrupted as stop:
            name = signal.Signals(stop.status - 128).name
            print(f"mcl_lab: stopped by {name}", file=sys.stderr, flush=True)
            sys.exit(stop.status)
        finally:
            settle_from_within(sweep, LAST_WORDS)
        until = time.monotonic() + LAST_WORDS
        for run in runs:  # their senders have more to deliver perhaps, of jobs that ended before, and end with this one
            wait_sender(run.folder, until - time.monotonic())
        failures = [(run, now) for run in runs if (now := ledger.standing(run)).state != "finished"]
        if failures:
            raise RunFailed(
                "; ".join(f"{run.name} {now.state}: {now.detail} (log: {run.log})" for run, now in failures)
            )

    def checkpoint(self):
        """What submitit requeues on a signal that comes before the runs are started: the same."""
        return as_it_was(self)

    def _train(self, ledger: Ledger, runs: Sequence[LedgerRun]) -> None:
        while True:
            LocalLauncher(jobs=len(runs)).launch(
                ledger,
                runs,
                prepare=self._prepare,
                environment=os.environ,
                show=lambda: None,
            )
            if not any(self._was_killed(ledger, run) for run in runs):
                return
            print("mcl_lab: a run was killed; it goes on from its last checkpoint", file=sys.stderr, flush=True)

    def _prepare(self, run: LedgerRun) -> list[str]:
        write_config(Path(run.folder), self.configs[run.folder])
        return [sys.executable, str(RUN), *self.options, f"resume={as_typed(run.folder)}"]

    def _was_killed(self, ledger: Ledger, run: LedgerRun) -> bool:
        """Whether somebody ended the run's process, not the run itself, and it may try again."""
        if ledger.standing(run).state == "finished" or len(run.attempts) > self.restarts:
            return False
        return run.latest is not None and (run.latest.exit_status == KILLED or is_stop(run.latest.exit_status))


def job_name() -> str:
    """The name of the job that this process is part of, as squeue shows it."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]
