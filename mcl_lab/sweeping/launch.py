"""Launching a sweep: here, as processes of this machine, or as jobs of SLURM."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mcl_lab.config.compose import CONF, run_folder
from mcl_lab.config.differences import differences
from mcl_lab.config.identity import identity_of
from mcl_lab.config.plain import plain
from mcl_lab.config.stored import to_yaml
from mcl_lab.config.sweeps import as_typed
from mcl_lab.config.targets import plugins
from mcl_lab.errors import InputError, Interrupted, RunFailed
from mcl_lab.host.files import read_json, write_json
from mcl_lab.host.processes import process_start, this_host
from mcl_lab.host.screen import screen
from mcl_lab.host.secrets import without_credentials
from mcl_lab.host.uri import credentials, network_warning, sqlite_file, stored_uri
from mcl_lab.launch.ledger import FILE_NAME as LEDGER
from mcl_lab.launch.ledger import GOING_ON, Ledger, Run, Standing
from mcl_lab.launch.local import LocalLauncher
from mcl_lab.launch.slurm import SlurmLauncher, require_slurm
from mcl_lab.runs.code import CONFIG_DIR, take_snapshot
from mcl_lab.runs.failures import in_one_line
from mcl_lab.runs.folders import make_folder, refuse_other_run, sweep_folder, write_config
from mcl_lab.sweeping.record import (
    RUN,
    SweepRecord,
    adopt,
    conclude,
    is_launching,
    launching,
    outcome,
    settle,
    states_in,
)
from mcl_lab.sweeping.slurm_job import SlurmJob
from mcl_lab.sweeping.standings import ledger_of, run_of
from mcl_lab.terminal.commands import command_line, named
from mcl_lab.terminal.result import recording
from mcl_lab.terminal.sweep import SweepScreen, follow, show_submission, show_sweep
from mcl_lab.tracking.system import refuse_missing

LONGEST_WAIT = 10.0  # seconds for a store to be ready before jobs are submitted; runs are recorded in any case
CODE = "code"  # the folder of snapshots in a sweep's
CONFIGS = "configs.json"  # of the runs that were submitted, as YAML, by their folders


class Sweep(NamedTuple):
    """A sweep that is being launched."""

    name: str
    folder: Path
    configs: dict[Path, DictConfig]  # by the folders of the runs
    config_dir: Path | None
    argv: Sequence[str]

    @property
    def config(self) -> DictConfig:
        """For what is the same in all."""
        return next(iter(self.configs.values()))

    @property
    def tracking(self) -> DictConfig:
        return self.config.tracking

    @property
    def credentials(self) -> dict[str, str]:
        """User and password of the tracking URI, for the environment of processes that record."""
        return credentials(self.tracking.uri) if self.tracking.uri else {}

    def yaml(self, run: Run) -> str:
        """The config that the run is launched with: what waits is not changed by an edit of a YAML file."""
        config = self.configs[Path(run.folder)]
        config.sweep = str(self.folder.absolute())  # not in a copy: to make one takes longer than all the rest
        return to_yaml(config, without_credentials)


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
        stored_uri(configs[0].tracking.uri)  # refuses what MLflow has no store for, and what would be written down
        for config in configs:
            refuse_missing(config.tracking.system)
    by_folder = _by_folder(configs)
    launcher = _launcher(configs)
    name = configs[0].sweep or name or f"multirun-{_hash([identity_of(config).run_key for config in configs])[:8]}"
    folder = sweep_folder(name, Path(os.path.commonpath([folder.parent for folder in by_folder])))
    sweep = Sweep(Path(name).name, folder, by_folder, config_dir, argv)
    with in_one_line(sweep.config, folder):
        if isinstance(launcher, LocalLauncher):
            _launch_here(sweep, launcher, screen())
        elif launcher.dry_run:
            _try_out(sweep, launcher, screen())
        else:
            _submit(sweep, launcher, screen())


def _launch_here(sweep: Sweep, launcher: LocalLauncher, console: Console) -> None:
    options = [f"--config-dir={sweep.config_dir.resolve()}"] if sweep.config_dir else []

    def prepare(run: Run) -> list[str]:
        write_config(Path(run.folder), sweep.yaml(run))
        return [sys.executable, str(RUN), *options, f"resume={as_typed(run.folder)}"]

    make_folder(sweep.folder)
    with launching(sweep.folder):
        ledger, runs = _enter(sweep)
        jobs = [run for run in runs if run.latest and run.latest.job]
        if any(standing.state == "unknown" for _, standing in ledger.standings(jobs)):
            message = "SLURM does not say what became of jobs of this sweep; launch it on a machine of the cluster"
            raise RunFailed(message)
        console.print(f"Sweep {sweep.name}: {len(runs)} runs; ledger {sweep.folder / LEDGER}", soft_wrap=True)
        record = _begin_record(sweep, runs)
        record.wait(sweep.tracking.wait)
        adoption = adopt(runs, sweep.folder, os.environ | sweep.credentials)
        try:
            with SweepScreen(console, sweep.name, ledger, runs) as show:
                launcher.launch(
                    ledger,
                    runs,
                    prepare=prepare,
                    environment=os.environ | sweep.credentials,
                    identify=lambda pid: (process_start(pid), this_host()),
                    show=show,
                )
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
        _show_end(sweep, console, standings)
    if message:
        raise RunFailed(f"{message}; the same command tries them again")


def _submit(sweep: Sweep, launcher: SlurmLauncher, console: Console) -> None:
    """Hand the runs to SLURM; follow them when the launcher is told to wait."""
    require_slurm()
    make_folder(sweep.folder)
    with launching(sweep.folder):
        ledger, runs = _enter(sweep)
        record = _begin_record(sweep, runs)  # while this process goes on
        adopt(runs, sweep.folder, os.environ | sweep.credentials)
        try:
            code = _snapshot(sweep)
            yaml = {run.folder: sweep.yaml(run) for run in runs}
            write_json(sweep.folder / CONFIGS, (read_json(sweep.folder / CONFIGS) or {}) | yaml)
            ledger.launcher = {
                "settings": OmegaConf.to_container(sweep.config.hydra.launcher, resolve=True),
                "config_dir": str(code / CONFIG_DIR) if sweep.config_dir else None,
                "cwd": os.getcwd(),
            }
            ledger.save()
            submission = launcher.submit(
                ledger,
                ledger.standings(runs),
                make_job=_job_maker(sweep, yaml, launcher, code),
                name=sweep.name,
                code=code,
                credentials=sweep.credentials,
                before=lambda: record.wait(min(sweep.tracking.wait, LONGEST_WAIT)),
            )
        except BaseException as error:
            with suppress(OSError):
                record.journal.status("failed", str(error))
            raise
        record.journal.status("submitted")
    ledger.ask_again()
    standings = ledger.standings(runs)
    settle(sweep.folder, states_in(standings))  # if nothing was to be done
    show_submission(console, ledger, submission, standings)
    if sweep.tracking.uri and (file := sqlite_file(stored_uri(sweep.tracking.uri))):
        note = network_warning(sweep.tracking.uri)
        note = note or f"{file} is for jobs on one machine; for several: tracking.uri=http://HOST:PORT"
        console.print(f"{'note':<13}  {note}", soft_wrap=True)
    if launcher.wait:
        follow(console, ledger, runs, lambda: is_launching(sweep.folder))
        standings = ledger.standings(runs)
        settle(sweep.folder, states_in(standings))
        _show_end(sweep, console, standings)
        if message := outcome(sweep.name, states_in(standings))[1]:
            raise RunFailed(f"{message}; the same command submits them again")


def _try_out(sweep: Sweep, launcher: SlurmLauncher, console: Console) -> None:
    """Ask SLURM about the jobs that would be submitted; nothing is written."""
    require_slurm()
    ledger = ledger_of(sweep.folder, saved=False)
    runs = ledger.enter(run_of(config, folder, sweep.folder) for folder, config in sweep.configs.items())
    code = sweep.folder.absolute() / CODE / "SNAPSHOT"
    submission = launcher.submit(
        ledger,
        ledger.standings(runs),
        make_job=_job_maker(sweep, {run.folder: sweep.yaml(run) for run in runs}, launcher, code),
        name=sweep.name,
        code=code,
        credentials=sweep.credentials,
        before=lambda: None,
    )
    for array in submission.arrays:
        console.print(array.script, highlight=False, markup=False, soft_wrap=True)
    jobs = sum(len(array.jobs) for array in submission.arrays)
    taken = f"{len(submission.runs)} of {len(runs)} runs, in {jobs} {'job' if jobs == 1 else 'jobs'}"
    console.print(f"SLURM would take {taken}; nothing was submitted.")


def _snapshot(sweep: Sweep) -> Path:
    into = sweep.folder.absolute() / CODE
    try:
        return take_snapshot(
            CONF.parent, into, clean=without_credentials, plugins=plugins(), config_dir=sweep.config_dir
        )
    except OSError as error:
        raise RunFailed(f"the code cannot be copied to {into}: {error}") from error


def _job_maker(
    sweep: Sweep, yaml: Mapping[str, str], launcher: SlurmLauncher, code: Path
) -> Callable[[list[Run], bool], SlurmJob]:
    """yaml: the config of each run, by its folder."""
    options = (f"--config-dir={code / CONFIG_DIR}",) if sweep.config_dir else ()

    def make_job(runs: list[Run], gpus: bool) -> SlurmJob:
        configs = {run.folder: yaml[run.folder] for run in runs}
        return SlurmJob(str(sweep.folder.absolute()), configs, options, gpus, launcher.requeues)

    return make_job


def _enter(sweep: Sweep) -> tuple[Ledger, list[Run]]:
    """The sweep's ledger with its runs, and with the jobs that other sweeps beside it have in SLURM's queue for the same."""
    ledger = ledger_of(sweep.folder)
    runs = ledger.enter(run_of(config, folder, sweep.folder) for folder, config in sweep.configs.items())
    for path in sweep.folder.parent.glob(f"*/{LEDGER}"):
        if path.parent == sweep.folder:
            continue
        other = ledger_of(path.parent)
        theirs = {run.folder: run for run in other.runs if run.latest and run.latest.job}
        for run in runs:
            shared = theirs.get(run.folder)
            if shared and other.standing(shared).state in GOING_ON and ledger.standing(run).state not in GOING_ON:
                job = dataclasses.replace(shared.latest, sweep=shared.latest.sweep or str(path.parent.absolute()))
                run.attempts.append(job)
    return ledger, runs


def _begin_record(sweep: Sweep, runs: Sequence[Run]) -> SweepRecord:
    record = SweepRecord(sweep.folder, sweep.tracking)
    record.begin(sweep.name, _hash([run.run_key for run in runs]), len(runs), sweep.argv)
    return record


def _show_end(sweep: Sweep, console: Console, standings: Sequence[tuple[Run, Standing]]) -> None:
    show_sweep(console, sweep.name, standings)
    report = ("report", command_line("task=report", named(sweep.folder)))
    for what, text in [report, *recording(sweep.config, sweep.folder)]:
        console.print(f"{what:<12}  {text}", soft_wrap=True)


def _by_folder(configs: Sequence[DictConfig]) -> dict[Path, DictConfig]:
    """The configs by their run folders. Raises InputError when runs share one, or one belongs to another run."""
    by_folder: dict[Path, DictConfig] = {}
    for config in configs:
        folder = run_folder(config)
        if folder in by_folder and identity_of(by_folder[folder]).run_key != identity_of(config).run_key:
            raise InputError(
                "hydra.run.dir", f"{folder} would be the folder of several runs; put ${{run_name:}} into it"
            )
        if folder in by_folder and plain(by_folder[folder]) != plain(config):
            changed = "; ".join(differences(plain(by_folder[folder]), plain(config)))
            named = (
                "; give each data set a data.name" if plain(by_folder[folder])["data"] != plain(config)["data"] else ""
            )
            raise InputError(
                "--multirun", f"runs that differ only in what decides no numbers are one run: {changed}{named}"
            )
        refuse_other_run(config, folder)
        by_folder[folder] = config
    return by_folder


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


def _hash(run_keys: Sequence[str]) -> str:
    return hashlib.sha256("".join(sorted(run_keys)).encode()).hexdigest()
