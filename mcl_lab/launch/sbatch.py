"""How sbatch is called: its options, the end of a job's script, and what is around it meanwhile."""

import os
import re
import shlex
import shutil
import signal
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mcl_lab.errors import InputError
from mcl_lab.launch.client_variables import own_environment

SITE = ("account", "partition", "qos", "constraint", "reservation")  # what a site has its users preset

# At the end of a job's script. A status above 128 says that a signal stopped or killed the task: before the time limit, for
# somebody else's job, or something killed Python. It goes on later, unless SLURM is ending the job for another reason: to
# requeue then would undo a scancel. {requeues} is how often. The last job of an array has the array's number as its own,
# which means all of them: so jobs of an array are named by their places in it. What a ~/.bashrc among the
# user's lines has preset for squeue would filter its answer.
GO_ON = r"""status=$?
unset ${!SQUEUE_*} ${!SCONTROL_*} SLURM_CLUSTERS
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

# What sbatch says when slurmctld has not answered, whatever it did.
UNANSWERED = "timed out|unable to co|receive failure|zero bytes|unexpected message|connection reset|broken pipe"

# In a path: what sbatch drops, and what it, srun and submitit replace wherever a job writes, `%j` by its number. There is no way
# to write it that all three understand: srun 22.05 fails on `% a%%u`.
LOST = r"[\\\n]"
PATTERN = r"%[\d%AabJjNnstux]"

# Options of sbatch by which jobs would get lost, or do something else.
OURS = frozenset(
    "array chdir clusters cpus-per-task dependency error export job-name no-requeue nodes ntasks ntasks-per-node open-mode"
    " output parsable quiet requeue signal test-only wait wrap".split()
)


def option(line: str) -> tuple[str, str | bool]:
    """`--exclude=n7` or `--exclusive` as the name and the value. Raises InputError("hydra.launcher.sbatch")."""
    found = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.*))?", line)
    if found is None:
        raise InputError("hydra.launcher.sbatch", f"must be long options of sbatch, as --exclude=n7, not {line}")
    if found[1] in OURS:
        raise InputError("hydra.launcher.sbatch", f"--{found[1]} is set by the launcher; leave it out")
    return found[1], True if found[2] is None else found[2]


def refuse_patterns(folder: Path) -> None:
    """Raise InputError where SLURM or submitit would take the folder of the jobs, or the current one, for another."""
    for path, misread in ((folder.absolute(), f"{LOST}|{PATTERN}"), (Path.cwd(), LOST)):
        if found := re.search(misread, str(path)):
            message = f"the path {str(path)!r} has {found[0]!r} in it, which SLURM would not take as it is; use another folder"
            raise InputError("hydra/launcher", message)


def is_refusal(error: Exception, words: str) -> bool:
    """Whether a submission by submitit ended by `error` because sbatch refused it, which it said in `words`; else SLURM may have
    taken the jobs."""
    return getattr(error.__cause__, "returncode", 0) > 0 and not re.search(UNANSWERED, words, re.IGNORECASE)


@contextmanager
def trial() -> Iterator[Path]:
    """A folder for jobs that are not meant; within it sbatch only tests what it is given."""
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder, "bin", "sbatch")
        shim.parent.mkdir()
        sbatch = shutil.which("sbatch")
        assert sbatch is not None  # `require_slurm` comes before
        shim.write_text(f'#!/bin/sh\n{shlex.quote(sbatch)} --test-only "$@" && echo "job 0"\n', encoding="utf-8")
        shim.chmod(0o755)
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{shim.parent}{os.pathsep}{before}"
        try:
            yield Path(folder)
        finally:
            os.environ["PATH"] = before


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that would end this process come after the body, Ctrl-C too, which sbatch is not to hear either."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def submission_environment(credentials: Mapping[str, str], given: Collection[str]) -> Iterator[None]:
    """For submitting: with credentials, and of SBATCH_ variables, which count more for sbatch than the script's options, only
    those of SITE that are not `given`."""
    before = dict(os.environ)
    own = own_environment(kept={f"SBATCH_{option.upper()}" for option in SITE if option not in given})
    os.environ.clear()
    os.environ |= own
    os.environ |= credentials
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
