"""A sweep that is being launched: its runs, its ledger, its record, and how they ended."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig
from rich.console import Console

from mcl_lab.config.compose import run_folder
from mcl_lab.config.differences import differences
from mcl_lab.config.identity import identity_of
from mcl_lab.config.plain import plain
from mcl_lab.config.stored import to_yaml
from mcl_lab.errors import InputError
from mcl_lab.host.secrets import without_credentials
from mcl_lab.host.uri import credentials
from mcl_lab.launch.ledger import Ledger
from mcl_lab.launch.ledger_run import LedgerRun
from mcl_lab.launch.standing import GOING_ON, Standing
from mcl_lab.runs.folders import refuse_other_run
from mcl_lab.runs.layout import SweepFolder
from mcl_lab.sweeping.record import SweepRecord
from mcl_lab.terminal.commands import command_line, named
from mcl_lab.terminal.result import recording
from mcl_lab.terminal.sweep import show_sweep


class Sweep(NamedTuple):
    """A sweep that is being launched."""

    name: str
    folder: Path
    configs: dict[Path, DictConfig]  # by the folders of the runs
    config_dir: Path | None
    argv: Sequence[str]

    @property
    def files(self) -> SweepFolder:
        return SweepFolder(self.folder)

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

    def yaml(self, run: LedgerRun) -> str:
        """The config that the run is launched with: what waits is not changed by an edit of a YAML file."""
        config = self.configs[Path(run.folder)]
        config.sweep = str(self.folder.absolute())  # not in a copy: to make one takes longer than all the rest
        return to_yaml(config, without_credentials)

    def enter(self, ledger: Ledger) -> list[LedgerRun]:
        """Its runs, taken into the ledger."""
        return ledger.enter(run_of(config, folder, self.folder) for folder, config in self.configs.items())

    def begin_record(self, runs: Sequence[LedgerRun]) -> SweepRecord:
        """Its own record, which begins now."""
        record = SweepRecord(self.folder, self.tracking)
        record.begin(self.name, digest_of_keys([run.run_key for run in runs]), len(runs), self.argv)
        return record


def open_ledger(sweep: Sweep) -> tuple[Ledger, list[LedgerRun]]:
    """The sweep's ledger with its runs, and with the jobs that other sweeps beside it have in SLURM's queue for the same."""
    ledger = Ledger(sweep.folder)
    runs = sweep.enter(ledger)
    for path in sweep.folder.parent.glob(f"*/{SweepFolder.ledger.name}"):
        if path.parent != sweep.folder:
            _share_jobs(ledger, runs, Ledger(path.parent))
    return ledger, runs


def _share_jobs(ledger: Ledger, runs: Sequence[LedgerRun], other: Ledger) -> None:
    """Note for the runs the jobs that another sweep has in SLURM's queue for them."""
    theirs = {run.folder: run for run in other.runs if run.latest and run.latest.job}
    for run in runs:
        shared = theirs.get(run.folder)
        if shared and other.standing(shared).state in GOING_ON and ledger.standing(run).state not in GOING_ON:
            job = shared.attempts[-1]  # only now, as `standing` takes over what the job has noted
            run.attempts.append(dataclasses.replace(job, sweep=job.sweep or str(other.folder.absolute())))


def show_end(sweep: Sweep, console: Console, standings: Sequence[tuple[LedgerRun, Standing]]) -> None:
    """Print how the runs of a sweep have ended, and what comes next."""
    show_sweep(console, sweep.name, standings)
    report = ("report", command_line("task=report", named(sweep.folder)))
    for what, text in [report, *recording(sweep.config, sweep.folder)]:
        console.print(f"{what:<12}  {text}", soft_wrap=True)


def by_run_folder(configs: Sequence[DictConfig]) -> dict[Path, DictConfig]:
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


def run_of(config: DictConfig, folder: Path, sweep: Path) -> LedgerRun:
    """A run of that config in that folder, as the ledger of a sweep has it; sweep: the sweep's folder."""
    identity = identity_of(config)
    return LedgerRun(
        folder=str(folder),
        run_key=identity.run_key,
        pair=identity.pair,
        loss=str(config.loss.name),
        dataset=str(config.data.name),
        seed=config.seed,
        epochs=config.trainer.epochs,
        uses_gpu=config.trainer.device != "cpu",
        log=str(SweepFolder(sweep).logs / f"{folder.name}.log"),
    )


def digest_of_keys(run_keys: Sequence[str]) -> str:
    """Of the runs of a sweep, in whatever order. Sweeps that people have are named by it."""
    return hashlib.sha256("".join(sorted(run_keys)).encode()).hexdigest()
