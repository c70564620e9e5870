"""Tracking URIs: what is stored of them, and where their user and password go."""

import os
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from mcl_lab.errors import InputError
from mcl_lab.host.files import expanded
from mcl_lab.host.secrets import QUERY

USERNAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
EXAMPLES = "sqlite:///FILE.db, http://HOST:PORT or another MLflow tracking URI"
DATABASES = ("postgresql", "mysql", "mssql")
STORES = (*DATABASES, "http", "https", "databricks")  # schemes besides SQLite's and plugins'
MOUNTS = Path("/proc/self/mountinfo")  # Linux only

# File systems that several machines write to, by Linux's names of them. There the locks that SQLite relies on may be slow,
# local to each machine or missing (https://www.sqlite.org/useovernet.html, https://www.sqlite.org/howtocorrupt.html).
NETWORK_TYPES = frozenset(
    "9p acfs afs beegfs ceph cifs coda dvs fhgfs gfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs3 nfs4 ocfs2 orangefs"
    " panfs pvfs2 smb2 smb3 smbfs wekafs".split()
)
NETWORK_FUSE_TYPES = frozenset(  # `fuse.NAME`, and there are local ones too
    "beegfs ceph ceph-fuse curlftpfs cvmfs2 daos dfuse gcsfuse glusterfs gpfs juicefs mfs moosefs mount.davfs quobyte"
    " rclone s3fs saunafs seaweedfs smbnetfs sshfs".split()
)


def stored_uri(uri: str) -> str:
    """`uri` as it may be written down: without user and password, and an SQLite file by its absolute path.

    Raises InputError("tracking.uri") for what MLflow cannot keep runs in: a folder (its file store is gone), a database
    in memory, an address without a scheme or a server's name, and for a password in its path or its options. The message
    does not repeat the URI.
    """
    if _is_sqlite(uri):
        return _absolute_sqlite(uri)
    if uri == "databricks":  # the one store that MLflow knows by a bare word
        return uri
    if "://" not in uri or uri.startswith("file:"):
        raise InputError("tracking.uri", f"needs a database or a server: {EXAMPLES}")
    parts = _split(uri)
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise InputError("tracking.uri", f"names no server: {EXAMPLES}")
    if parts.scheme.partition("+")[0] not in (*STORES, *entry_points(group="mlflow.tracking_store").names):
        raise InputError("tracking.uri", f"MLflow has no store for {parts.scheme}://; it needs {EXAMPLES}")
    if re.search(r"\s", uri) or "@" in parts.path + parts.query + parts.fragment:
        raise InputError("tracking.uri", "cannot be read: in a password write @ as %40, / as %2F, a blank as %20")
    if QUERY.search(uri):
        raise InputError(
            "tracking.uri", f"has a password or token among its options; set {USERNAME} and {PASSWORD} instead"
        )
    return uri.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1) if "@" in parts.netloc else uri


def credentials(uri: str) -> dict[str, str]:
    """User and password in `uri`, as the environment variables that MLflow reads; empty when it holds none."""
    if _is_sqlite(uri):
        return {}
    parts = _split(uri)
    found = {USERNAME: parts.username, PASSWORD: parts.password}
    return {name: unquote(value) for name, value in found.items() if value is not None}


def connectable_uri(uri: str, environment: Mapping[str, str] = os.environ) -> str:
    """A stored `uri` with what it needs to connect: MLflow takes user and password of a server from the environment
    by itself, but those of a database only from the URI."""
    if not uri.startswith(DATABASES) or USERNAME not in environment:
        return uri
    secret = f":{quote(environment[PASSWORD], safe='')}" if PASSWORD in environment else ""
    return uri.replace("://", f"://{quote(environment[USERNAME], safe='')}{secret}@", 1)


def sqlite_file(uri: str) -> Path | None:
    """The database file of a stored SQLite URI; None for any other store."""
    return Path(uri.partition(":///")[2].partition("?")[0]) if _is_sqlite(uri) else None


def network_file_system(uri: str, *, mounts: Path | None = None) -> str | None:
    """The type (nfs4, lustre, ...) of the network file system that an SQLite URI's file lies on, or would be made on.

    None on a local one, for any other store, and where there is no table of mounts in the form of Linux's
    /proc/self/mountinfo (proc(5)) to ask; `mounts`: another such table. Raises InputError as `stored_uri` does.
    """
    file = sqlite_file(stored_uri(uri))
    if file is None:
        return None
    # Through symbolic links; this also has folders mounted that are mounted on demand.
    place = Path(os.path.realpath(file))
    try:
        table = (MOUNTS if mounts is None else mounts).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    found, depth = None, -1
    for line in table.splitlines():
        # ID, parent, device, root, mount point, options, ... - type, source, options
        mount, _, source = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), mount.split()[4]))
        if len(point.parts) >= depth and place.is_relative_to(point):  # of two at one place the later hides the earlier
            found, depth = source.split()[0], len(point.parts)
    return found if found in NETWORK_TYPES or (found or "").removeprefix("fuse.") in NETWORK_FUSE_TYPES else None


def network_warning(uri: str) -> str | None:
    """One line on an SQLite file that lies where several machines write, and the remedy; None for any other store."""
    kind = network_file_system(uri)
    if kind is None:
        return None
    return (
        f"tracking.uri: {sqlite_file(stored_uri(uri))} is on a network file system ({kind}), where SQLite is not safe "
        "once several machines write; start `mlflow server` and set tracking.uri=http://HOST:PORT"
    )


def artifacts_warning(uri: str) -> str | None:
    """One line on a database that no server stands before, and the remedy; None for any other store, SQLite's file too."""
    if urlsplit(uri).scheme.partition("+")[0] not in DATABASES:
        return None
    return (
        "tracking.uri: without a server the artifacts of all runs go to mlruns/ in whichever folder the first of them was "
        "trained in, on that machine; start `mlflow server` on the database and set tracking.uri=http://HOST:PORT"
    )


def _is_sqlite(uri: str) -> bool:
    return uri.startswith(("sqlite:", "sqlite+"))


def _absolute_sqlite(uri: str) -> str:
    scheme, found, rest = uri.partition(":///")
    path, mark, query = rest.partition("?")
    if not found or not path or path == ":memory:":
        raise InputError("tracking.uri", "needs a file: sqlite:///FILE.db")
    return f"{scheme}:///{expanded(path, 'tracking.uri').absolute()}{mark}{query}"


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises when it is no number
    except ValueError:
        raise InputError("tracking.uri", f"is no URI: {EXAMPLES}") from None
    return parts
