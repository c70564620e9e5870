"""The ledger of a sweep: which runs it has, and what became of each.

One file, ledger.json in the sweep's folder, written by the one process that launches the sweep and read by anybody. It says
what was launched and how the processes ended; how far a run has come its own folder says, as seen by `observe`, and what
SLURM has done with a job `ask`. Each job keeps a ledger of its own runs in jobs/<id>, from which the sweep's takes their
attempts: so every ledger has one writer.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mcl_lab.errors import RunFailed
from mcl_lab.host.files import read_json, write_json
from mcl_lab.launch.ledger_run import Attempt, LedgerRun, runs_in
from mcl_lab.launch.queue import Job, QueueSilent, ask
from mcl_lab.launch.standing import Seen, Standing, observe, standing_here, standing_in_slurm
from mcl_lab.runs.layout import SweepFolder

FORMAT = 2
FRESH = 5.0  # seconds for which SLURM's answer is taken for the present


class Ledger:
    """The runs of a sweep, in the order in which they are launched.

    folder: of the sweep, or of a job. saved: whether what is changed goes to the disk. observe: what there is to see of a
    run. ask: what SLURM has done with jobs, by their ids; raises QueueSilent.
    `launcher`: what must be known to submit again, None for a sweep of this machine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        saved: bool = True,
        observe: Callable[[LedgerRun], Seen] = observe,
        ask: Callable[[Sequence[str]], Mapping[str, Job]] = ask,
    ):
        self.folder = folder
        self._saved = saved
        self._observe = observe
        self._ask = ask
        self._jobs: Mapping[str, Job] | QueueSilent = {}
        self._asked_for: frozenset[str] = frozenset()
        self._asked = float("-inf")
        self._changed: int | None = None  # when the file did, at the last `refresh`
        file = self.file
        stored = read_json(file)
        if stored is not None and isinstance(stored.get("format"), int) and stored["format"] > FORMAT:
            raise RunFailed(f"{file} was written by a newer mcl_lab; update this one")
        self.runs = runs_in(stored)
        self.launcher: dict[str, Any] | None = stored.get("launcher") if stored else None
        if self.launcher is not None and not _is_launcher(self.launcher):
            raise RunFailed(f"{file} does not say how the sweep was submitted")

    @property
    def file(self) -> Path:
        return SweepFolder(self.folder).ledger

    def enter(self, runs: Iterable[LedgerRun]) -> list[LedgerRun]:
        """Take in runs that are not there yet, known by their folders; returns all that were named, with their attempts."""
        known = {run.folder: run for run in self.runs}
        named = []
        for run in runs:
            if run.folder in known:
                run.attempts = known[run.folder].attempts
            known[run.folder] = run
            named.append(run)
        self.runs = list(known.values())
        self.save()
        return named

    def try_to_save(self) -> None:
        """`save`, but for what the disk has against it: it is tried again at the next change."""
        with suppress(OSError):
            self.save()

    def save(self) -> None:
        """Bring what was changed in `runs` to the disk. Raises OSError."""
        if not self._saved:
            return
        content = {"format": FORMAT, "launcher": self.launcher, "runs": [run.stored() for run in self.runs]}
        write_json(self.file, content)

    def standings(self, runs: Iterable[LedgerRun]) -> list[tuple[LedgerRun, Standing]]:
        """How some runs stand now, each with its run."""
        return [(run, self.standing(run)) for run in runs]

    def standing(self, run: LedgerRun) -> Standing:
        """How a run stands now."""
        latest = run.latest
        if latest is None or latest.job is None:
            return standing_here(latest, self._observe(run))
        job = self._job(latest.job)  # first: a run that ends meanwhile has left its last word when it is looked for
        jobs = SweepFolder(latest.sweep or self.folder).jobs
        latest = self._hear(run, latest, jobs / latest.job)
        return standing_in_slurm(latest, self._observe(run), job, jobs)

    def refresh(self) -> None:
        """Take over what another process has written of the runs since."""
        try:
            changed = self.file.stat().st_mtime_ns
        except OSError:  # a file system that stumbled
            return
        if changed == self._changed:
            return
        self._changed = changed
        known = {run.folder: run for run in self.runs}
        for run in runs_in(read_json(self.file)):
            if run.folder in known:
                known[run.folder].attempts = run.attempts
            else:
                self.runs.append(run)

    def jobs_in_queue(self) -> list[str]:
        """The jobs of this sweep that wait or run. Raises RunFailed when SLURM does not answer."""
        found = []
        for run in self.runs:
            if run.latest and run.latest.job and not run.latest.sweep:
                job = self._job(run.latest.job)
                if isinstance(job, QueueSilent):
                    raise RunFailed(str(job))
                if job and (job.pending or job.active):
                    found.append(run.latest.job)
        return sorted(set(found))

    def ask_again(self) -> None:
        """Take SLURM's last answer for old: something was done about the jobs."""
        self._asked = float("-inf")

    def _job(self, name: str) -> Job | QueueSilent | None:
        """What SLURM says of a job, by asking about all of the ledger's at once; None for one that it does not know."""
        if time.monotonic() - self._asked > FRESH or name not in self._asked_for:
            names = sorted({name, *(run.latest.job for run in self.runs if run.latest and run.latest.job)})
            try:
                self._jobs = self._ask(names)
            except QueueSilent as silent:
                self._jobs = silent
            self._asked, self._asked_for = time.monotonic(), frozenset(names)
        return self._jobs if isinstance(self._jobs, QueueSilent) else self._jobs.get(name)

    def _hear(self, run: LedgerRun, latest: Attempt, folder: Path) -> Attempt:
        """Take over the attempts that the job of the latest one has noted in its folder; returns what is the latest then."""
        noted = runs_in(read_json(SweepFolder(folder).ledger))
        attempts = [attempt for other in noted if other.folder == run.folder for attempt in other.attempts]
        if not attempts:
            return latest
        for attempt in attempts:
            attempt.job, attempt.sweep = latest.job, latest.sweep
        run.attempts = [attempt for attempt in run.attempts if attempt.job != latest.job] + attempts
        return attempts[-1]


def _is_launcher(launcher: Any) -> bool:
    """Whether this is what a sweep was submitted by."""
    return (
        isinstance(launcher, dict)
        and isinstance(launcher.get("settings"), dict)
        and isinstance(launcher.get("config_dir", 0), str | None)
        and isinstance(launcher.get("cwd"), str)
    )
