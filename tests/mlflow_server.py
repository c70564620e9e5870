"""A real MLflow server, which can be killed and started again, and what it has in its database."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

SECONDS = 240  # more than anything takes on a busy machine


def wait_until(condition, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


class MlflowServer:
    """`mlflow server` on an SQLite file in `folder`; its address is free from the beginning, it listens once it is started."""

    def __init__(self, folder: Path, database: str = "server.db"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri, self.folder, self.database = f"http://127.0.0.1:{self.port}", folder, folder / database
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.database}"]
        command += [
            "--artifacts-destination",
            str(self.folder / "artifacts"),
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"
        }  # or eight processes more start with it
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._listens)

    def _listens(self) -> bool:
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def rows(self, query: str, *values) -> list[tuple]:
        with closing(sqlite3.connect(self.database, timeout=30)) as database:
            return database.execute(query, values).fetchall()
