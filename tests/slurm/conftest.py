"""A SLURM cluster of the tests' own, started when the first test asks for it: one in each process of pytest-xdist."""

import os
import shutil

import pytest
from cluster import OUTER, Cluster, why_not


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """The running Cluster. The test that asks for it, and what it starts, sees it as if on its login node."""
    if reason := why_not():
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        yield cluster.up()
    finally:
        cluster.down()
        shutil.rmtree(cluster.folder / "database", ignore_errors=True)  # 100 MB; the logs stay


@pytest.fixture(autouse=True)
def on_the_login_node(request, monkeypatch):
    """SLURM's commands find the cluster during the test, which leaves no job behind."""
    if "cluster" not in request.fixturenames:
        yield
        return
    cluster = request.getfixturevalue("cluster")
    for name in [name for name in os.environ if name.startswith(OUTER)]:
        monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.environment[name])
    yield
    if left := cluster.cancel_all():
        pytest.fail(f"the test has left jobs in the queue: {', '.join(left)}")
