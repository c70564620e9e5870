"""The SLURM launcher: the runs of a sweep as jobs of a cluster, submitted by submitit in arrays."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from submitit import SlurmExecutor
from submitit.helpers import DelayedSubmission

from mcl_lab.errors import InputError, RunFailed
from mcl_lab.host.clock import now_ms
from mcl_lab.launch.ledger import Ledger
from mcl_lab.launch.ledger_run import Attempt, LedgerRun
from mcl_lab.launch.queue import TIMEOUT, QueueSilent, run_command
from mcl_lab.launch.sbatch import GO_ON, SITE, is_refusal, option, submission_environment, trial, undisturbed
from mcl_lab.launch.standing import GOING_ON, Standing
from mcl_lab.runs.layout import SweepFolder


class SlurmLauncher:
    """Submits runs as arrays of jobs, a run or `runs_per_gpu` runs in each, and leaves them to SLURM.

    partition, account, qos, constraint: as for sbatch; None leaves them to the site. gpus: of a job, as a number or with
    a type, `a100:1`; each run has one of them, or shares it with `runs_per_gpu - 1` others. cpus, memory (as `16G`; None
    for the site's default) and time (as `2-12:00:00`, or minutes): of a job. array_parallelism: jobs that run at a time,
    of one submission; None for as many as SLURM lets. requeues: how often a job goes on by itself after a time limit, a
    preemption or a kill. warning: seconds before its time limit at which it is stopped for that. sbatch: other options
    of sbatch, `--exclude=n7`. setup: lines of shell before Python starts. wait: whether to follow the runs to their end.
    dry_run: ask SLURM about the jobs, and submit none.
    """

    def __init__(
        self,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        gpus: Annotated[int, ">= 0"] | str = 1,
        cpus: Annotated[int, ">= 1"] = 4,
        memory: Annotated[int, ">= 1"] | str | None = "16G",
        time: Annotated[int, ">= 1"] | str = "24:00:00",
        array_parallelism: Annotated[int, ">= 1"] | None = None,
        runs_per_gpu: Annotated[int, ">= 1"] = 1,
        requeues: Annotated[int, ">= 0"] = 10,
        warning: Annotated[int, ">= 0"] = 120,
        sbatch: Sequence[str] = (),
        setup: Sequence[str] = (),
        wait: bool = False,
        dry_run: bool = False,
    ):
        self.partition = partition
        self.account = account
        self.qos = qos
        self.constraint = constraint
        self.gpus = str(gpus)
        self.cpus = cpus
        self.memory = memory
        self.time = time
        self.array_parallelism = array_parallelism
        self.runs_per_gpu = runs_per_gpu
        self.requeues = requeues
        self.warning = warning
        self.sbatch = dict(map(option, sbatch))
        self.setup = list(setup)
        self.wait = wait
        self.dry_run = dry_run
        for key in ("partition", "account", "qos", "constraint"):
            if not (getattr(self, key) or "").isprintable():  # a new line would be one more of the script
                raise InputError(f"hydra.launcher.{key}", "must be in one line")
        if not re.fullmatch(r"([\w.-]+:)?\d+", self.gpus):
            raise InputError("hydra.launcher.gpus", f"must be a number, or as a100:1, not {gpus}")
        if not re.fullmatch(r"\d+|\d+-\d+(:\d+){0,2}|\d+(:\d+){1,2}", str(time)):
            raise InputError("hydra.launcher.time", f"must be minutes, H:MM:SS or D-HH:MM:SS, not {time}")
        if (limit := _seconds(str(time))) <= warning:
            raise InputError("hydra.launcher.warning", f"must be less than the {limit} seconds of hydra.launcher.time")
        if memory is not None and not re.fullmatch(r"\d+[KMGT]?", str(memory)):
            raise InputError("hydra.launcher.memory", f"must be megabytes, or as 16G, not {memory}")
        if self.runs_per_gpu > 1 and self._gpu_count == 0:
            raise InputError("hydra.launcher.runs_per_gpu", "needs hydra.launcher.gpus=1 or more")

    def submit(
        self,
        ledger: Ledger,
        standings: Sequence[tuple[LedgerRun, Standing]],
        *,
        make_job: Callable[[list[LedgerRun], bool], Callable],
        name: str,
        code: Path,
        credentials: Mapping[str, str],
        before: Callable[[], None],
    ) -> "Submission":
        """Submit those of the runs that neither are finished nor in the queue or running.

        make_job: what the job of some runs calls, to be pickled; whether it has GPUs. name: of the sweep. code: the folder
        to import from. credentials: for the environment of the jobs, which sbatch takes over from this process. before:
        called when all is ready, just before the first array goes to SLURM.
        Raises InputError when SLURM takes nothing, RunFailed when it does not answer or took a part; what it said that it
        took is in the ledger.
        """
        if any(standing.state == "unknown" for _, standing in standings):
            raise RunFailed("SLURM does not say what became of jobs of this sweep: nothing was submitted")
        runs = [run for run, standing in standings if standing.state not in (*GOING_ON, "finished")]
        gpus = self._gpu_count if any(run.uses_gpu for run in runs) else 0
        size = max(1, gpus) * self.runs_per_gpu
        packs = [runs[start : start + size] for start in range(0, len(runs), size)]
        jobs = [make_job(pack, gpus > 0) for pack in packs]
        limit = _array_limit() if jobs else 1
        arrays: list[Array] = []
        before()
        with (
            submission_environment(
                credentials, {option for option in SITE if getattr(self, option, None)} | self.sbatch.keys()
            ),
            trial() if self.dry_run else nullcontext(SweepFolder(ledger.folder).jobs) as folder,
        ):
            executor = SlurmExecutor(folder, python=f"{shlex.quote(sys.executable)} -P")  # -P: never the code around
            for start in range(0, len(jobs), limit):
                # SLURM counts the parallelism of each array by itself: so one begins when the one before has ended
                in_turn = arrays and self.array_parallelism and not self.dry_run
                after = f"afterany:{arrays[-1].id}" if in_turn else None
                executor.update_parameters(**self._parameters(name, gpus, code, after))
                with undisturbed():  # what SLURM has taken, the ledger knows
                    arrays.append(self._submit_array(executor, jobs[start : start + limit], done=start))
                    now = now_ms()
                    for pack, job in zip(packs[start : start + limit], arrays[-1].jobs, strict=True):
                        for run in pack:
                            run.attempts.append(Attempt(0, None, "", None, now, job=job))
                    try:
                        ledger.save()
                    except OSError:  # or the next command would submit these runs a second time
                        cancel([arrays[-1].id])
                        raise
        return Submission(runs, arrays)

    def _submit_array(self, executor: SlurmExecutor, jobs: Sequence[Callable], *, done: int) -> "Array":
        said = io.StringIO()  # submitit repeats sbatch's words there
        try:
            with redirect_stderr(said):
                submitted = executor.submit_array(jobs)
        except Exception as error:  # a class of submitit's own for each way to fail
            words = " ".join((said.getvalue() or str(error)).replace("sbatch: error: ", "").split())
            words = f"SLURM took the first {done} jobs, then sbatch said: {words}" if done else f"sbatch said: {words}"
            refused = is_refusal(error, words)
            if not refused and not self.dry_run:
                name = executor.parameters["job_name"]
                words += f"; the jobs may be there all the same: squeue --me --name={name}, and scancel any not in task=sweep"
            if done or not refused:
                raise RunFailed(words) from error
            settings = {key: getattr(self, key) for key in ("partition", "gpus", "cpus", "memory", "time")}
            asked = ", ".join(f"{key}={value}" for key, value in settings.items() if value is not None)
            raise InputError("hydra/launcher", f"{words} (of jobs with {asked})") from error
        first = submitted[0]
        script = first.paths.submission_file.read_text(encoding="utf-8")
        return Array(first.job_id.partition("_")[0], [job.job_id for job in submitted], script)

    def _parameters(self, name: str, gpus: int, code: Path, after: str | None) -> dict[str, Any]:
        """Of submitit's executor. What sbatch has an option for goes to it as it is."""
        options = {
            "chdir": os.getcwd(),
            "ntasks": 1,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gres": f"gpu:{self.gpus}" if gpus else None,
            "mem": self.memory,
            "time": self.time,
            "dependency": after,
            "requeue" if self.requeues else "no-requeue": True,
            **self.sbatch,
        }
        # after the lines of the user, as modules set it too
        path = f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        return {
            "job_name": "mcl-" + re.sub(r"[^\w.+-]", "-", name),
            "wckey": None,
            "cpus_per_task": self.cpus,
            # cpus: srun does not take them over from sbatch; export, time: whatever a ~/.bashrc in the user's lines has preset
            "srun_args": ["--ntasks=1", f"--cpus-per-task={self.cpus}", "--export=ALL", "--time=0"],
            "signal_delay_s": self.warning,
            "array_parallelism": self.array_parallelism or sys.maxsize,
            # `set -e`, perhaps of the user's lines, and TERM, which is for the task, must not keep the script from its end
            "setup": [*self.setup, path, "set +e", "trap : TERM"],
            "teardown": GO_ON.replace("{requeues}", str(self.requeues)).splitlines(),
            "additional_parameters": {option: value for option, value in options.items() if value is not None},
        }

    @property
    def _gpu_count(self) -> int:
        return int(self.gpus.rpartition(":")[2])


class Array(NamedTuple):
    """id: SLURM's. jobs: the ids of its jobs. script: what was submitted."""

    id: str
    jobs: list[str]
    script: str


class Submission(NamedTuple):
    runs: list[LedgerRun]
    arrays: list[Array]


def as_it_was(job: Callable) -> DelayedSubmission:
    """For a job's `checkpoint`, which submitit calls before it requeues: the same again."""
    return DelayedSubmission(job)


def cancel(jobs: Iterable[str]) -> None:
    """Take jobs out of the queue and end those that run. Raises RunFailed with SLURM's words."""
    done = _ask(["scancel", "--", *jobs])
    if done.returncode:
        raise RunFailed(f"scancel said: {done.stderr}")


def require_slurm() -> None:
    """Raise InputError where SLURM's commands are not."""
    missing = [name for name in ("sbatch", "srun", "squeue", "scontrol", "scancel") if shutil.which(name) is None]
    if missing:
        raise InputError("hydra/launcher", f"there is no {missing[0]} here: submit from a machine of the cluster")


def _array_limit() -> int:
    """The most jobs that an array may have. Raises RunFailed when SLURM does not answer."""
    done = _ask(["scontrol", "show", "config"])
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", done.stdout)
    if found is None:
        raise RunFailed(f"SLURM does not answer: {done.stderr}")
    return max(1, int(found[1]))


def _ask(command: Sequence[str]) -> subprocess.CompletedProcess:
    """As `run_command`, for what cannot go on without an answer. Raises RunFailed."""
    try:
        done = run_command(command)
    except QueueSilent as silent:
        raise RunFailed(str(silent)) from None
    if done is None:
        raise RunFailed(f"SLURM does not answer: {command[0]} said nothing in {TIMEOUT:.0f} seconds")
    return done


def _seconds(limit: str) -> int:
    """A time limit as SLURM reads it: minutes, minutes:seconds, H:MM:SS, D-H, D-H:MM, D-H:MM:SS."""
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash or len(parts) == 3:
        hours, minutes, seconds = (parts + [0, 0])[:3]
    else:
        hours, (minutes, seconds) = 0, (parts + [0])[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
