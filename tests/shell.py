"""Programs that bring real faults about: small file systems, and system calls that fail. Tests are skipped where they cannot."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_file_system(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of that size, mounted at `folder`, which is made."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    """`size=900k`, `ro`, `rw`."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def with_failing(call: str, error: str, when: str) -> list[str]:
    """The beginning of a command line in which a system call fails: the n-th one (`3`), all from there on (`3+`)."""
    program = shutil.which("strace")
    if program is None or subprocess.run([program, "-qq", "-e", "trace=none", "true"], capture_output=True).returncode:
        pytest.skip("strace cannot be used here")
    inject = f"inject={call}:error={error}:when={when}"
    return [program, "-f", "--seccomp-bpf", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject]


def as_nobody() -> list[str]:
    """The beginning of a command line that runs as a user without name and home folder."""
    command = ["unshare", "--user", "--map-user=54321", "env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives nobody a user of their own")
    return command
