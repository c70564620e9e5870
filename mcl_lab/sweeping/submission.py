"""A sweep as jobs of SLURM: submitted, or tried out."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from mcl_lab.config.compose import CONF
from mcl_lab.errors import RunFailed
from mcl_lab.host.files import read_json, write_json
from mcl_lab.host.modules import plugins
from mcl_lab.host.secrets import without_credentials
from mcl_lab.host.uri import artifacts_warning, network_warning, sqlite_file, stored_uri
from mcl_lab.launch.client_variables import refuse_clusters
from mcl_lab.launch.ledger import Ledger
from mcl_lab.launch.ledger_run import LedgerRun
from mcl_lab.launch.sbatch import refuse_patterns
from mcl_lab.launch.slurm import SlurmLauncher, require_slurm
from mcl_lab.runs.code import CONFIG_DIR, take_snapshot
from mcl_lab.runs.folders import make_folder
from mcl_lab.runs.layout import SweepFolder
from mcl_lab.sweeping.record import adopt, is_launching, launching, outcome, settle, states_in
from mcl_lab.sweeping.slurm_job import SlurmJob
from mcl_lab.sweeping.sweep import Sweep, open_ledger, show_end
from mcl_lab.terminal.sweep import follow, show_submission

LONGEST_WAIT = 10.0  # seconds for a store to be ready before jobs are submitted; runs are recorded in any case


def submit(sweep: Sweep, launcher: SlurmLauncher, console: Console) -> None:
    """Hand the runs to SLURM; follow them when the launcher is told to wait."""
    require_slurm()
    refuse_clusters()
    refuse_patterns(sweep.files.jobs)
    make_folder(sweep.folder)
    with launching(sweep.folder):
        ledger, runs = open_ledger(sweep)
        record = sweep.begin_record(runs)  # while this process goes on
        adopt(runs, sweep.folder, os.environ | sweep.credentials)
        try:
            code = _snapshot(sweep)
            yaml, configs = {run.folder: sweep.yaml(run) for run in runs}, sweep.files.configs
            write_json(configs, (read_json(configs) or {}) | yaml)
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
    if sweep.tracking.uri and (warning := artifacts_warning(sweep.tracking.uri)):
        console.print(f"{'note':<13}  {warning}", soft_wrap=True)
    if sweep.tracking.uri and (file := sqlite_file(stored_uri(sweep.tracking.uri))):
        note = network_warning(sweep.tracking.uri)
        note = note or f"{file} is for jobs on one machine; for several: tracking.uri=http://HOST:PORT"
        console.print(f"{'note':<13}  {note}", soft_wrap=True)
    if launcher.wait:
        follow(console, ledger, runs, lambda: is_launching(sweep.folder))
        standings = ledger.standings(runs)
        settle(sweep.folder, states_in(standings))
        show_end(sweep, console, standings)
        if message := outcome(sweep.name, states_in(standings))[1]:
            raise RunFailed(f"{message}; the same command submits them again")


def try_out(sweep: Sweep, launcher: SlurmLauncher, console: Console) -> None:
    """Ask SLURM about the jobs that would be submitted; nothing is written."""
    require_slurm()
    refuse_clusters()
    refuse_patterns(sweep.files.jobs)
    ledger = Ledger(sweep.folder, saved=False)
    runs = sweep.enter(ledger)
    code = SweepFolder(sweep.folder.absolute()).code / "SNAPSHOT"
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
    into = SweepFolder(sweep.folder.absolute()).code
    try:
        return take_snapshot(
            CONF.parent, into, clean=without_credentials, plugins=plugins(), config_dir=sweep.config_dir
        )
    except OSError as error:
        raise RunFailed(f"the code cannot be copied to {into}: {error}") from error


def _job_maker(
    sweep: Sweep, yaml: Mapping[str, str], launcher: SlurmLauncher, code: Path
) -> Callable[[list[LedgerRun], bool], SlurmJob]:
    """yaml: the config of each run, by its folder."""
    options = (f"--config-dir={code / CONFIG_DIR}",) if sweep.config_dir else ()

    def make_job(runs: list[LedgerRun], gpus: bool) -> SlurmJob:
        configs = {run.folder: yaml[run.folder] for run in runs}
        return SlurmJob(str(sweep.folder.absolute()), configs, options, gpus, launcher.requeues)

    return make_job
