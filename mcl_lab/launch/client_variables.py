"""Which variables of SLURM's commands reach those that are called here and, through sbatch, the jobs."""

import os
from collections.abc import Collection

from mcl_lab.errors import InputError

# Options that a person presets for commands typed by hand, filters for instance, and what a job tells the commands in it:
# `SLURM_TIMELIMIT=1` would end every step after a minute. SLURMD_DEBUG is srun's.
PREFIXES = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
# Where the cluster is, who asks, and who may read what a job prints.
KEPT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_UMASK"})
CLUSTERS = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")


def own_environment(kept: Collection[str] = ()) -> dict[str, str]:
    """The environment of this process without variables of SLURM's commands but KEPT and `kept`."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or name in kept or not name.startswith(PREFIXES)
    }


def refuse_clusters() -> None:
    """Raise InputError where the environment names clusters to submit to: the jobs are looked for in this machine's."""
    for name in CLUSTERS:
        if os.environ.get(name):
            raise InputError(name, f"jobs go to the cluster of this machine, not to {os.environ[name]}; unset {name}")
