"""A real SLURM cluster for tests, on this machine, with accounting; by hand:

    python tests/slurm/cluster.py up FOLDER [nodes=2 gpus=2 ...]        # then export SLURM_CONF as it says
    python tests/slurm/cluster.py status|down FOLDER

munged, mariadbd, slurmdbd, slurmctld and a slurmd for each node n1, n2, ... run as ordinary processes, for any user,
on the loopback interface and ports that were free, all files in one folder: several clusters can live side by side.
The nodes share the machine's cores, and their GPUs are links to /dev/null, which is enough for SLURM to deal them out.

Partitions, each of all nodes: gpu (the default); low, whose jobs are preempted and requeued for those of gpu and high;
high, whose jobs go first. A preempted job's steps (what srun has started, not the batch script itself) get SIGTERM and
have the grace time; slurmctld looks only every 30 s whether it is over.
"""

import getpass
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct")
PACKAGES = "slurmctld slurmd slurm-client slurmdbd munge mariadb-server-core mariadb-client-core"
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
MARK = "MCL_LAB_TEST_CLUSTER"  # in the environment of every daemon: FOLDER:NAME
# What a person's own environment may say to SLURM's commands and jobs, and the tests' must not.
OUTER = ("SLURM_", "SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_", "SLURMD_")
OUTER += ("CUDA_VISIBLE_DEVICES",)
_CLAIMS: list[socket.socket] = []  # of ports, see _free_ports
LONGEST_SOCKET = 107  # bytes that Linux takes for the path of a socket
OVER = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "OUT_OF_MEMORY",
    "DEADLINE",
    "BOOT_FAIL",
)


class ClusterError(RuntimeError):
    """A daemon did not come up, a command of SLURM failed, or a job did not become what was waited for."""


def why_not() -> str | None:
    """Why no cluster can run here, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        return f"SLURM is not installed (no {', '.join(missing)}): apt-get install --no-install-recommends {PACKAGES}"
    return None


@dataclass
class Cluster:
    """The cluster whose files are in `folder`; memory in MB a node, times in seconds."""

    folder: Path
    nodes: int = 2
    gpus: int = 2  # of each node
    cpus: int = 8  # of each node, whatever the machine has
    memory: int = 16384
    max_array_size: int = 1001  # one more than the highest index of an array
    kill_wait: int = 5  # from SIGTERM to SIGKILL
    grace_time: int = 5  # that a preempted job has
    _children: list = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self):
        self.folder = Path(self.folder).absolute()

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """For processes that are to see this cluster, as if on its login node."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OUTER)}
        return kept | {"SLURM_CONF": str(self.conf), "PATH": PATH}

    # -- up and down

    def up(self) -> "Cluster":
        """Starts what does not run yet; a ClusterError names the daemon that does not come up."""
        if reason := why_not():
            raise ClusterError(reason)
        if not self._daemons():
            self._write_files()
        self._start_munge()
        self._start_database()
        self._start("slurmdbd", "-D")
        self._wait_for("slurmdbd", 30, "sacctmgr", "-n", "show", "cluster")
        if not self.run("sacctmgr", "-n", "-P", "show", "cluster", "format=cluster"):
            self.run("sacctmgr", "-i", "-Q", "add", "cluster", "tests")
        self._start("slurmctld", "-D")
        self._wait_for("slurmctld", 30, "scontrol", "ping")
        for node in self._node_names():
            self._start("slurmd", "-D", "-N", node, name=f"slurmd.{node}")
        for node in self._node_names():
            self._wait_for(
                f"slurmd.{node}", 30, "sh", "-c", f"sinfo -h -N -n {node} -o %T | grep -qxE 'idle|mixed|allocated'"
            )
        return self

    def down(self) -> None:
        """Cancels all jobs and ends every process of the cluster, also what jobs left behind. Its files stay."""
        daemons = self._daemons()
        if "slurmctld" in daemons:
            try:
                self.cancel_all()
            except ClusterError as error:
                print(f"not all jobs were cancelled, their processes are killed: {error}", file=sys.stderr)
        order = sorted(name for name in daemons if name.startswith("slurmd."))
        for name in (*order, "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._end([daemons[name]] if name in daemons else [], limit=20)
        self._end(self._left_processes(), limit=5)
        for child in self._children:
            child.wait(timeout=10)
        self._children.clear()

    def status(self) -> str:
        daemons = self._daemons()
        lines = [f"{name}: {'process ' + str(daemons[name]) if name in daemons else 'down'}" for name in self._names()]
        if "slurmctld" in daemons:
            lines += [self.run("sinfo", "-N", "-o", "%N %P %T %c %m %G", check=False), self.run("squeue", check=False)]
        return "\n".join(lines)

    # -- commands

    def run(self, *words: str, check: bool = True, stdin: str | None = None, limit: float = 30) -> str:
        """What a command prints, without the last newline.

        Raises a ClusterError with its error message when it fails (unless `check` is false) or takes `limit` s.
        """
        command = " ".join(words)
        given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        try:
            ended = subprocess.run(words, env=self.environment, text=True, timeout=limit, capture_output=True, **given)
        except subprocess.TimeoutExpired:
            raise ClusterError(f"{command}: no answer in {limit:g} s") from None
        if check and ended.returncode != 0:
            raise ClusterError(
                f"{command}: exit status {ended.returncode}: {ended.stderr.strip() or ended.stdout.strip()}"
            )
        return ended.stdout.rstrip("\n")

    def submit(self, script: str, *options: str) -> str:
        """The id of a batch job of this shell script (without its first line)."""
        return self.run("sbatch", "--parsable", f"--chdir={self.folder}", *options, stdin=f"#!/bin/bash\n{script}\n")

    def state(self, job: str) -> str:
        """RUNNING, PENDING, ...: the queue's word on a job, or else the accounting's; empty when it has none (yet)."""
        queued = self.run("squeue", "-h", "-o", "%T", "-j", job, check=False)
        return queued or self.record(job).get("State", "").partition(" ")[0]

    def record(self, job: str) -> dict[str, str]:
        """sacct's words on a job: JobID, State, ExitCode, NodeList, Reason; empty when it has none (yet)."""
        keys = ("JobID", "State", "ExitCode", "NodeList", "Reason")
        line = self.run("sacct", "-n", "-P", "-X", "-j", job, "-o", ",".join(keys)).partition("\n")[0]
        return dict(zip(keys, line.split("|"), strict=False)) if line else {}

    def wait(self, job: str, *states: str, limit: float = 60) -> str:
        """Waits until a job is in one of these states, or, without any, over by the accounting; returns the state.

        A job that is requeued is NODE_FAIL or PREEMPTED for some seconds before it is PENDING again.
        """

        def reached() -> str:
            found = self.state(job) if states else self.record(job).get("State", "").partition(" ")[0]
            return found if found in (states or OVER) else ""

        return self.poll(reached, f"job {job} to be {' or '.join(states or ('over',))}", limit)

    def poll(self, condition: Callable, what: str, limit: float = 60):
        """The first true value of condition(); a ClusterError that names `what` was waited for after `limit` s."""
        end = time.monotonic() + limit
        while not (value := condition()):
            if time.monotonic() > end:
                queue = self.run("squeue", "--states=all", check=False)
                raise ClusterError(f"waited {limit:g} s for {what}; the queue:\n{queue}")
            time.sleep(0.1)
        return value

    def restarts(self, job: str) -> int:
        """How often a job of the queue was requeued."""
        return int(self.run("squeue", "-h", "--states=all", "-O", "restartcnt", "-j", job))

    def jobs(self) -> list[str]:
        """Ids of the jobs that are pending, running or ending."""
        return self.run("squeue", "-h", "-o", "%i").split()

    def cancel_all(self, limit: float = 30) -> list[str]:
        """Cancels all jobs, waits until they are gone, and returns which they were."""
        if jobs := self.jobs():

            def gone() -> bool:
                # Pending ones first, or they would take the place of those that end; again, as some requeue themselves.
                for which in (("--state=PENDING",), ()):
                    self.run("scancel", *which, f"--user={os.getuid()}", check=False)
                return not self.jobs()

            self.poll(gone, "all jobs to be gone", self.kill_wait + limit)
        return jobs

    # -- daemons

    def _start(self, program: str, *words: str, name: str = "") -> None:
        name = name or program
        if name in self._daemons():
            return
        with open(self.folder / "log" / f"{name}.log", "ab") as log:
            mine = {MARK: f"{self.folder}:{name}", "MYSQL_UNIX_PORT": f"{self.folder}/mariadb.socket"}
            process = subprocess.Popen(
                [program, *words],
                env=self.environment | mine,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is not for it
            )
        self._children.append(process)

    def _start_munge(self) -> None:
        files = self.folder / "munge"
        self._start(
            "munged",
            "--foreground",
            "--force",  # it wants other users to reach the socket
            *(f"--{name}-file={files}.{name}" for name in ("key", "pid", "seed")),
            f"--socket={files}.socket",
            f"--log-file={self.folder}/log/munged.log",
        )
        self._wait_for("munged", 10, "munge", "-S", f"{files}.socket", "-n")

    def _start_database(self) -> None:
        data = self.folder / "database"
        # A server that starts clears what others have in /tmp.
        common = (f"--user={getpass.getuser()}", f"--datadir={data}", f"--tmpdir={self.folder}/temporary")
        if not (data / "done").exists():
            shutil.rmtree(data, ignore_errors=True)
            by_password = "--auth-root-authentication-method=normal"
            self.run("mariadb-install-db", "--no-defaults", *common, by_password, "--skip-test-db", limit=120)
            (data / "done").touch()
        self._start(
            "mariadbd",
            "--no-defaults",
            *common,
            f"--socket={self.folder}/mariadb.socket",
            f"--pid-file={self.folder}/mariadbd.pid",
            "--skip-networking",
            "--performance-schema=off",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=16M",
            "--innodb-lock-wait-timeout=900",
            "--innodb-flush-log-at-trx-commit=0",
        )
        client = ("mariadb", "--no-defaults", "-S", f"{self.folder}/mariadb.socket", "-u", "root", "-e")
        self._wait_for("mariadbd", 30, *client, "CREATE DATABASE IF NOT EXISTS slurm_acct_db")

    def _wait_for(self, name: str, limit: float, *words: str) -> None:
        """Waits until this command succeeds."""
        end = time.monotonic() + limit
        while True:
            try:
                self.run(*words, limit=5)
                return
            except ClusterError as error:
                ended = name not in self._daemons()
                if ended or time.monotonic() > end:
                    what = "ended" if ended else f"did not come up in {limit:g} s ({error})"
                    log = self.folder / "log" / f"{name}.log"
                    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                    raise ClusterError(f"{name} {what}; the end of {log}:\n{tail}") from None
            time.sleep(0.1)

    def _names(self) -> list[str]:
        return ["munged", "mariadbd", "slurmdbd", "slurmctld", *(f"slurmd.{node}" for node in self._node_names())]

    def _node_names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    def _daemons(self) -> dict[str, int]:
        """The cluster's daemons that live, by name, and their process ids."""
        found = {}
        for process in _processes():
            folder, _, name = _environment(process).get(MARK, "").rpartition(":")
            if folder == str(self.folder) and _name(process) == name.partition(".")[0]:
                found[name] = process
        return found

    def _left_processes(self) -> list[int]:
        """What daemons and jobs have left: by the environment, or, where it was overwritten, by the open files."""
        found = []
        for process in _processes():
            environment = _environment(process)
            ours = environment.get(MARK, "").rpartition(":")[0] == str(self.folder)
            job = environment.get("SLURM_CONF") == str(self.conf) and "SLURM_JOB_ID" in environment
            if ours or job or (_name(process).startswith("slurm") and _has_open(process, self.folder)):
                found.append(process)
        return [process for process in found if process not in _ancestors()]

    def _end(self, processes: list[int], limit: float) -> None:
        """SIGTERM, and SIGKILL after `limit` s; returns when none lives."""
        for number, seconds in ((signal.SIGTERM, limit), (signal.SIGKILL, 10)):
            for process in processes:
                _send(process, number)
            end = time.monotonic() + seconds
            while (processes := [process for process in processes if _lives(process)]) and time.monotonic() < end:
                time.sleep(0.05)
        if processes:
            raise ClusterError(f"processes that do not end: {', '.join(map(str, processes))}")

    # -- files

    def _write_files(self) -> None:
        socket_file = self.folder / "munge.socket"
        if len(os.fsencode(socket_file)) + len(".lock") > LONGEST_SOCKET:
            raise ClusterError(f"{self.folder}: a path too long for a socket")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the database asks for no password
        for node in self._node_names():
            (self.folder / "spool" / node).mkdir(parents=True, exist_ok=True)
            (self.folder / "gpus" / node).mkdir(parents=True, exist_ok=True)
            for gpu in range(self.gpus):
                link = self.folder / "gpus" / node / f"nvidia{gpu}"
                link.unlink(missing_ok=True)
                link.symlink_to("/dev/null")  # a regular file would not do
        for name in ("log", "state", "temporary"):
            (self.folder / name).mkdir(exist_ok=True)
        _write(self.folder / "munge.key", os.urandom(128), mode=0o600)
        settings = {each.name: getattr(self, each.name) for each in fields(self) if each.type is int}
        _write(self.folder / "cluster.json", json.dumps(settings, indent=1))
        controller, database, *nodes = _free_ports(2 + self.nodes)
        _write(self.conf, self._slurm_conf(controller, database, nodes))
        _write(self.folder / "slurmdbd.conf", self._slurmdbd_conf(database), mode=0o600)
        _write(self.folder / "gres.conf", self._gres_conf())
        _write(self.folder / "cgroup.conf", "CgroupAutomount=no\n")

    def _slurm_conf(self, controller: int, database: int, ports: list[int]) -> str:
        host, user = socket.gethostname().partition(".")[0], getpass.getuser()
        shape = f"CPUs={self.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={self.cpus} ThreadsPerCore=1"
        shape += f" RealMemory={self.memory}"
        if self.gpus:
            shape += f" Gres=gpu:{self.gpus}"
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} {shape} State=UNKNOWN"
            for node, port in zip(self._node_names(), ports, strict=True)
        )
        return f"""\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={self.folder}/munge.socket,cred_expire=5
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool/%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.%n.pid
SlurmdLogFile={self.folder}/log/steps.%n.log
SlurmctldDebug=info
SlurmdDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize={self.max_array_size}
ReturnToService=2
JobRequeue=1
KillWait={self.kill_wait}
OverTimeLimit=0
MinJobAge=300
InactiveLimit=0
Waittime=0
SlurmctldTimeout=60
SlurmdTimeout=60
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database}
AccountingStoragePass={self.folder}/munge.socket
AccountingStorageTRES=gres/gpu
GresTypes=gpu
{nodes}
PartitionName=DEFAULT Nodes={",".join(self._node_names())} MaxTime=INFINITE DefaultTime=60
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime={self.grace_time}
PartitionName=gpu PriorityTier=2 PreemptMode=OFF GraceTime=0 Default=YES
PartitionName=high PriorityTier=3 PreemptMode=OFF GraceTime=0
"""

    def _slurmdbd_conf(self, port: int) -> str:
        return f"""\
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge.socket
DbdHost={socket.gethostname().partition(".")[0]}
DbdAddr=127.0.0.1
DbdPort={port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={getpass.getuser()}
PidFile={self.folder}/slurmdbd.pid
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""

    def _gres_conf(self) -> str:
        devices = "nvidia0" if self.gpus == 1 else f"nvidia[0-{self.gpus - 1}]"
        lines = [f"NodeName={node} Name=gpu File={self.folder}/gpus/{node}/{devices}\n" for node in self._node_names()]
        return "AutoDetect=off\n" + "".join(lines if self.gpus else ())


def _write(file: Path, content: str | bytes, mode: int = 0o644) -> None:
    file.touch(mode=mode)
    file.chmod(mode)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def _free_ports(number: int) -> list[int]:
    """Ports below those that the kernel gives to outgoing connections, or one of these might take them meanwhile. Each is claimed
    as long as this process lives, by an abstract socket of its name: a cluster that starts at the same moment would find it
    free as well."""
    found: list[int] = []
    while len(found) < number:
        port = random.SystemRandom().randrange(10_000, 32_000)
        claim = socket.socket(socket.AF_UNIX)
        with socket.socket() as probe:
            try:
                claim.bind(f"\0port {port} of a test cluster")
                probe.bind(("127.0.0.1", port))
            except OSError:
                claim.close()
                continue
        _CLAIMS.append(claim)
        found.append(port)
    return found


def _processes() -> list[int]:
    return [process for name in os.listdir("/proc") if name.isdigit() and _lives(process := int(name))]


def _stat(process: int) -> list[str]:
    """State, parent, ... of a process; of one that is no more, nothing."""
    try:
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _lives(process: int) -> bool:
    """A zombie does not: whoever should reap it may be slow."""
    return _stat(process)[:1] not in ([], ["Z"], ["X"])


def _ancestors() -> list[int]:
    """This process, its parent, ..."""
    found = [os.getpid()]
    while (parent := int((_stat(found[-1]) or [0, 0])[1])) > 0:
        found.append(parent)
    return found


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""


def _environment(process: int) -> dict[str, str]:
    """As it was when the program started."""
    try:
        entries = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)


def _has_open(process: int, folder: Path) -> bool:
    for name in ("cwd", "fd"):
        try:
            entry = Path(f"/proc/{process}/{name}")
            links = [entry] if name == "cwd" else list(entry.iterdir())
            if any(Path(os.readlink(link)).is_relative_to(folder) for link in links):
                return True
        except OSError:
            continue
    return False


def _send(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def main(words: list[str]) -> int:
    if words == ["packages"]:
        print(PACKAGES)
        return 0
    if len(words) < 2 or words[0] not in ("up", "down", "status"):
        print(
            f"usage: {sys.argv[0]} up FOLDER [NAME=NUMBER ...] | status FOLDER | down FOLDER | packages",
            file=sys.stderr,
        )
        return 2
    folder = Path(words[1]).absolute()
    saved = json.loads(file.read_text()) if (file := folder / "cluster.json").exists() else {}
    given = {name: int(number) for name, _, number in (word.partition("=") for word in words[2:])}
    cluster = Cluster(folder, **saved | given)
    try:
        if words[0] == "up":
            cluster.up()
            print(f"export SLURM_CONF={cluster.conf}")
        elif words[0] == "down":
            cluster.down()
        else:
            print(cluster.status())
    except ClusterError as error:
        print(error, file=sys.stderr)
        if words[0] == "up":
            cluster.down()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
