"""Which SQLite files lie where several machines write, by tables of mounts in the form of proc(5)."""

import pytest

from mcl_lab.errors import InputError
from mcl_lab.host import uri as tracking_uri
from mcl_lab.host.uri import artifacts_warning, network_file_system, network_warning

# Lines as Linux writes them: optional fields before the dash or none, escaped blanks, one mount hidden by another.
TABLE = r"""
25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
26 25 0:40 / /home rw,relatime shared:2 master:7 - nfs4 server:/export/home rw,vers=4.2,addr=10.0.0.1
27 26 0:41 / /home/me/local rw - xfs /dev/nvme0n1 rw
28 25 0:42 / /scratch rw - lustre 10.0.0.2@o2ib:/scratch rw,flock
29 25 0:43 / /gpfs/my\040data rw - gpfs gpfs rw
30 25 0:44 / /mnt/remote rw - fuse.sshfs me@host: rw,user_id=1000
31 25 0:45 / /mnt/crypt rw - fuse.gocryptfs /crypt rw,user_id=1000
32 25 0:46 / /hidden rw - nfs server:/a rw
33 25 0:47 / /hidden rw - tmpfs tmpfs rw
34 25 0:48 / /shown rw - tmpfs tmpfs rw
35 25 0:49 / /shown rw - cifs //server/share rw
""".lstrip()


@pytest.fixture
def mounts(tmp_path):
    file = tmp_path / "mountinfo"
    file.write_text(TABLE)
    return file


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("sqlite:////home/me/mlflow.db", "nfs4"),
        ("sqlite:////home/me/not/there/yet/mlflow.db?timeout=9", "nfs4"),
        ("sqlite+pysqlite:////home/me/mlflow.db", "nfs4"),
        ("sqlite:////home/me/local/mlflow.db", None),
        ("sqlite:////home/me/local/../mlflow.db", "nfs4"),
        ("sqlite:////homes/mlflow.db", None),  # a longer name, no part of /home
        ("sqlite:////scratch/mlflow.db", "lustre"),
        ("sqlite:////gpfs/my data/mlflow.db", "gpfs"),
        ("sqlite:////mnt/remote/mlflow.db", "fuse.sshfs"),
        ("sqlite:////mnt/crypt/mlflow.db", None),
        ("sqlite:////hidden/mlflow.db", None),
        ("sqlite:////shown/mlflow.db", "cifs"),
        ("http://host:5000", None),
        ("postgresql://host/home", None),
    ],
)
def test_the_type_of_the_deepest_mount(mounts, uri, kind):
    assert network_file_system(uri, mounts=mounts) == kind


def test_symbolic_links_and_relative_paths_lead_to_their_place(mounts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert network_file_system("sqlite:///mlflow.db", mounts=mounts) is None
    (tmp_path / "runs").symlink_to("/scratch/runs")
    assert network_file_system("sqlite:///runs/mlflow.db", mounts=mounts) == "lustre"
    mounts.write_text(TABLE + f"36 25 0:50 / {tmp_path} rw - beegfs beegfs_nodev rw\n")
    assert network_file_system("sqlite:///mlflow.db", mounts=mounts) == "beegfs"


def test_without_a_table_nothing_is_claimed(tmp_path):
    assert network_file_system("sqlite:////home/me/mlflow.db", mounts=tmp_path / "none") is None


def test_this_machine_s_own_table_is_read():
    assert network_file_system("sqlite:////proc/mlflow.db") is None
    with pytest.raises(InputError):
        network_file_system("mlruns")


def test_the_warning_names_file_type_and_remedy(mounts, monkeypatch):
    monkeypatch.setattr(tracking_uri, "MOUNTS", mounts)
    warning = network_warning("sqlite:////scratch/mlflow.db")
    assert "\n" not in warning
    for words in ("/scratch/mlflow.db", "(lustre)", "mlflow server", "tracking.uri=http://HOST:PORT"):
        assert words in warning
    assert network_warning("sqlite:////tmp/mlflow.db") is None
    assert network_warning("http://host:5000") is None


@pytest.mark.parametrize(
    ("uri", "warned"),
    [
        ("postgresql+psycopg2://host/runs", True),
        ("mysql://host/runs", True),
        ("http://host:5000", False),
        ("sqlite:///mlflow.db", False),  # artifacts lie beside it
        ("databricks", False),
    ],
)
def test_a_database_without_a_server(uri, warned):
    warning = artifacts_warning(uri)
    assert (warning is not None) == warned
    assert not warned or "mlruns/" in warning and "tracking.uri=http://HOST:PORT" in warning
