"""Variables of SLURM's commands: what a person presets for commands typed by hand says nothing to ours."""

import os
from unittest.mock import patch

import pytest
from slurm_variables import VARIABLES

from mcl_lab.errors import InputError
from mcl_lab.launch.client_variables import own_environment, refuse_clusters
from mcl_lab.launch.sbatch import submission_environment

PLACE = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_JWT": "token", "SLURM_UMASK": "0077"}
JOB = {"SLURM_JOB_ID": "12", "SLURM_JOBID": "12", "SLURM_ARRAY_JOB_ID": "12", "SLURM_WORKING_CLUSTER": "a:b:1:2"}
OTHERS = {"PATH": "/bin", "SLURMING": "1", "WANDB_MODE": "x"}
SITE = {f"SBATCH_{option}": "mine" for option in ("ACCOUNT", "CONSTRAINT", "PARTITION", "QOS", "RESERVATION")}


@pytest.fixture(params=[{}, JOB], ids=["shell", "job"])
def environment(request):
    """All that is there, in a shell or in another job."""
    return VARIABLES | PLACE | OTHERS | SITE | request.param


def test_for_commands_that_are_called_here(environment):
    with patch.dict(os.environ, environment, clear=True):
        assert own_environment() == PLACE | OTHERS


def test_for_sbatch_and_so_for_the_jobs(environment):
    kept = {name: value for name, value in SITE.items() if name != "SBATCH_PARTITION"}
    with patch.dict(os.environ, environment, clear=True):
        with submission_environment({"PASSWORD": "x"}, given={"partition", "exclude"}):
            assert dict(os.environ) == PLACE | OTHERS | kept | {"PASSWORD": "x"}
        assert dict(os.environ) == environment


@pytest.mark.parametrize("name", ["SLURM_CLUSTERS", "SBATCH_CLUSTERS"])
def test_another_cluster_is_refused(name, monkeypatch):
    refuse_clusters()
    monkeypatch.setenv(name, "far")
    with pytest.raises(InputError, match=f"{name}: .*not to far; unset {name}"):
        refuse_clusters()
