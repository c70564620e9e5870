"""The SLURM launcher: the runs of a sweep as jobs of a cluster, submitted by submitit in arrays."""

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from submitit import SlurmExecutor
from submitit.helpers import DelayedSubmission

from mcl_lab.errors import InputError, RunFailed
from mcl_lab.launch.ledger import GOING_ON, JOBS, Attempt, Ledger, Run, Standing
from mcl_lab.launch.queue import TIMEOUT, QueueSilent, run_command

SITE = ("account", "partition", "qos", "constraint", "reservation")  # what a site has its users preset

# At the end of a job's script. A status above 128 says that a signal stopped or killed the task: before the time limit, for
# somebody else's job, or something killed Python. It goes on later, unless SLURM is ending the job for another reason: to
# requeue then would undo a scancel. {requeues} is how often. The last job of an array has the array's number as its own,
# which means all of them: so jobs of an array are named by their places in it.
GO_ON = r"""status=$?
if [ $status -gt 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt {requeues} ]; then
    job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
    job="${job:-$SLURM_JOB_ID}"
    case "$(squeue --noheader --format=%T/%r --jobs="$job")" in
        RUNNING/* | */TimeLimit)
            echo "mcl_lab: ended with status $status; requeued" >&2
            scontrol requeue "$job" && sleep 300 ;;
    esac
fi
exit $status"""

# Options of sbatch by which jobs would get lost, or do something else.
OURS = frozenset(
    "array chdir clusters cpus-per-task dependency error export job-name no-requeue nodes ntasks ntasks-per-node open-mode"
    " output parsable quiet requeue signal test-only wait wrap".split()
)


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
        self.sbatch = dict(map(_option, sbatch))
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
        standings: Sequence[tuple[Run, Standing]],
        *,
        make_job: Callable[[list[Run], bool], Callable],
        name: str,
        code: Path,
        credentials: Mapping[str, str],
        before: Callable[[], None],
    ) -> "Submission":
        """Submit those of the runs that neither are finished nor in the queue or running.

        make_job: what the job of some runs calls, to be pickled; whether it has GPUs. name: of the sweep. code: the folder
        to import from. credentials: for the environment of the jobs, which sbatch takes over from this process. before:
        called when all is ready, just before the first array goes to SLURM.
        Raises InputError when SLURM takes nothing, RunFailed when it does not answer or took a part; what it took is in
        the ledger.
        """
        if any(standing.state == "unknown" for _, standing in standings):
            raise RunFailed("SLURM does not say what became of jobs of this sweep: nothing was submitted")
        runs = [run for run, standing in standings if standing.state not in (*GOING_ON, "finished")]
        gpus = self._gpu_count if any(run.uses_gpu for run in runs) else 0
        size = max(1, gpus) * self.runs_per_gpu
        packs = [runs[start : start + size] for start in range(0, len(runs), size)]
        jobs = [make_job(pack, gpus > 0) for pack in packs]
        limit, arrays = _array_limit() if jobs else 1, []
        before()
        with (
            _environment(credentials, {option for option in SITE if getattr(self, option, None)} | self.sbatch.keys()),
            _trial() if self.dry_run else nullcontext(ledger.folder / JOBS) as folder,
        ):
            executor = SlurmExecutor(folder, python=f"{shlex.quote(sys.executable)} -P")  # -P: never the code around
            for start in range(0, len(jobs), limit):
                # SLURM counts the parallelism of each array by itself: so one begins when the one before has ended
                in_turn = arrays and self.array_parallelism and not self.dry_run
                after = f"afterany:{arrays[-1].id}" if in_turn else None
                executor.update_parameters(**self._parameters(name, gpus, code, after))
                with _undisturbed():  # what SLURM has taken, the ledger knows
                    arrays.append(self._submit_array(executor, jobs[start : start + limit], done=start))
                    now = time.time_ns() // 1_000_000
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
            if done:
                raise RunFailed(f"SLURM took the first {done} jobs, then sbatch said: {words}") from error
            settings = {key: getattr(self, key) for key in ("partition", "gpus", "cpus", "memory", "time")}
            asked = ", ".join(f"{key}={value}" for key, value in settings.items() if value is not None)
            raise InputError("hydra/launcher", f"sbatch said: {words} (of jobs with {asked})") from error
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
            "srun_args": ["--ntasks=1", f"--cpus-per-task={self.cpus}"],  # which srun does not take over from sbatch
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
    runs: list[Run]
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


def _option(line: str) -> tuple[str, str | bool]:
    """`--exclude=n7` or `--exclusive` as the name and the value."""
    found = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.*))?", line)
    if found is None:
        raise InputError("hydra.launcher.sbatch", f"must be long options of sbatch, as --exclude=n7, not {line}")
    if found[1] in OURS:
        raise InputError("hydra.launcher.sbatch", f"--{found[1]} is set by the launcher; leave it out")
    return found[1], True if found[2] is None else found[2]


@contextmanager
def _trial() -> Iterator[Path]:
    """A folder for jobs that are not meant; within it sbatch only tests what it is given."""
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder, "bin", "sbatch")
        shim.parent.mkdir()
        shim.write_text(
            f'#!/bin/sh\n{shlex.quote(shutil.which("sbatch"))} --test-only "$@" && echo "job 0"\n', encoding="utf-8"
        )
        shim.chmod(0o755)
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{shim.parent}{os.pathsep}{before}"
        try:
            yield Path(folder)
        finally:
            os.environ["PATH"] = before


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that would end this process come after the body, Ctrl-C too, which sbatch is not to hear either."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(credentials: Mapping[str, str], given: Collection[str]) -> Iterator[None]:
    """For submitting: with credentials, and without what would get around the options in the script.

    What a job passes on to those that are submitted from within it is left out, and SBATCH_ variables, which count more
    than a script for sbatch, but for those of SITE that are not `given`.
    """
    before = dict(os.environ)
    kept = {f"SBATCH_{option.upper()}" for option in SITE if option not in given} | {"SLURM_CONF"}
    for name in before:
        inherited = name.startswith("SLURM_") and "SLURM_JOB_ID" in before
        if (inherited or name.startswith("SBATCH_")) and name not in kept:
            del os.environ[name]
    os.environ |= credentials
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
