"""Launching a sweep: here, as processes of this machine, or as jobs of SLURM."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mcl_lab.config.identity import identity_of
from mcl_lab.config.sweeps import as_typed
from mcl_lab.errors import InputError, Interrupted, RunFailed
from mcl_lab.host.screen import screen
from mcl_lab.launch.ledger_run import LedgerRun
from mcl_lab.launch.local import LocalLauncher
from mcl_lab.launch.slurm import SlurmLauncher
from mcl_lab.runs.failures import in_one_line
from mcl_lab.runs.folders import make_folder, sweep_folder, write_config
from mcl_lab.sweeping.record import RUN, adopt, conclude, launching, outcome, states_in
from mcl_lab.sweeping.submission import submit, try_out
from mcl_lab.sweeping.sweep import Sweep, by_run_folder, digest_of_keys, open_ledger, show_end
from mcl_lab.terminal.sweep import SweepScreen, show_sweep
from mcl_lab.tracking.moved import refuse_moved
from mcl_lab.tracking.system import refuse_missing


def launch(
    configs: Sequence[DictConfig], *, name: str | None, argv: Sequence[str], config_dir: Path | None = None
) -> None:
    """Launch the runs of a sweep; those that are finished, running or in the queue are left alone.

    The local launcher follows them to their end, SLURM's when asked to. configs: checked, one for each run. name: the
    sweep's, None to make one from what it holds. argv: the command line. config_dir: that of --config-dir.
    Raises InputError before anything is started, RunFailed when some runs failed, Interrupted when asked to stop.
    """
    for key in ("sweep", "tracking.uri", "tracking.experiment", "hydra.launcher"):
        if len({str(OmegaConf.select(config, key)) for config in configs}) > 1:
            raise InputError(key, "must be the same for all runs of a sweep")
    if configs[0].tracking.uri is not None:
        refuse_moved(configs[0].tracking.uri, configs[0].tracking.experiment)  # and what MLflow has no store for
        for config in configs:
            refuse_missing(config.tracking.system)
    by_folder = by_run_folder(configs)
    launcher = _launcher(configs)
    keys = [identity_of(config).run_key for config in configs]
    name = configs[0].sweep or name or f"multirun-{digest_of_keys(keys)[:8]}"
    folder = sweep_folder(name, Path(os.path.commonpath([folder.parent for folder in by_folder])))
    sweep = Sweep(Path(name).name, folder, by_folder, config_dir, argv)
    with in_one_line(sweep.config, folder):
        if isinstance(launcher, LocalLauncher):
            _launch_here(sweep, launcher, screen())
        elif launcher.dry_run:
            try_out(sweep, launcher, screen())
        else:
            submit(sweep, launcher, screen())


def _launch_here(sweep: Sweep, launcher: LocalLauncher, console: Console) -> None:
    options = [f"--config-dir={sweep.config_dir.resolve()}"] if sweep.config_dir else []

    def prepare(run: LedgerRun) -> list[str]:
        write_config(Path(run.folder), sweep.yaml(run))
        return [sys.executable, str(RUN), *options, f"resume={as_typed(run.folder)}"]

    make_folder(sweep.folder)
    with launching(sweep.folder):
        ledger, runs = open_ledger(sweep)
        jobs = [run for run in runs if run.latest and run.latest.job]
        if any(standing.state == "unknown" for _, standing in ledger.standings(jobs)):
            message = "SLURM does not say what became of jobs of this sweep; launch it on a machine of the cluster"
            raise RunFailed(message)
        console.print(f"Sweep {sweep.name}: {len(runs)} runs; ledger {sweep.files.ledger}", soft_wrap=True)
        record = sweep.begin_record(runs)
        record.wait(sweep.tracking.wait)
        adoption = adopt(runs, sweep.folder, os.environ | sweep.credentials)
        try:
            with SweepScreen(console, sweep.name, ledger, runs) as show:
                launcher.launch(ledger, runs, prepare=prepare, environment=os.environ | sweep.credentials, show=show)
        except BaseException as error:
            with suppress(OSError):
                record.journal.status("interrupted" if isinstance(error, Interrupted) else "failed", str(error))
            if isinstance(error, Interrupted):
                show_sweep(console, sweep.name, ledger.standings(runs))
            raise
        standings = ledger.standings(runs)
        state, message = outcome(sweep.name, states_in(standings))
        conclude(record.journal, state, message)
        if adoption:
            with suppress(subprocess.TimeoutExpired):
                adoption.wait(sweep.tracking.wait)
        show_end(sweep, console, standings)
    if message:
        raise RunFailed(f"{message}; the same command tries them again")


def _launcher(configs: Sequence[DictConfig]) -> LocalLauncher | SlurmLauncher:
    """The launcher that `hydra/launcher` names."""
    target = OmegaConf.select(configs[0], "hydra.launcher._target_") or "an empty node"
    if not target.startswith("mcl_lab.launch."):
        raise InputError("hydra/launcher", f"must be local, slurm or slurm_cpu: {target} keeps no ledger of its runs")
    if any(config.trainer.device.startswith("cuda:") for config in configs):
        raise InputError(
            "trainer.device", "in a sweep the launcher shares out GPUs: write cuda, and hydra.launcher.gpus=[1]"
        )
    launcher = hydra.utils.instantiate(configs[0].hydra.launcher)
    if getattr(launcher, "gpus", None) == "0" and any(config.trainer.device == "cuda" for config in configs):
        raise InputError("hydra.launcher.gpus", "must be 1 or more for trainer.device=cuda")
    return launcher
