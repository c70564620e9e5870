"""What trained a run: code, versions, device and data, written down by each process that begins to train it or goes on with it.

The record (record.json) has a list `environments`, one for each stretch of training that the weights come from: the step that
it began at, and what it ran in. A run that was never resumed elsewhere, or by other code, has one.
"""

import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path

import torch

from mcl_lab.host.files import write_atomically
from mcl_lab.host.modules import plugins
from mcl_lab.host.secrets import without_credentials, without_secrets
from mcl_lab.runs.code import CHANGED, changes_of, commit_of, package_state
from mcl_lab.runs.layout import RunFolder

HOUSE = Path(__file__).resolve().parents[2]
PACKAGES = ("mcl_lab", "torch", "torchvision", "numpy", "pillow")
CODE = ("git_commit", "changes", "plugins")
VERSIONS = ("python", *PACKAGES, "cuda", "cudnn")
MACHINE = ("device_type", "device", "threads")
DECIDING = (*CODE, *VERSIONS, *MACHINE)  # what, besides config and data, the bits of the weights may depend on
TAGS = ("git_commit", "device", "torch")  # what a person compares runs by


def environment_of(device: torch.device) -> tuple[dict, str]:
    """(what this process trains in, how the code differs from its commit: the content of changes.diff).

    `changes` is the checksum of that text, None when there is none; `plugins` tells the code of the packages that
    MCL_LAB_PLUGINS names. To be called after `use_device`, which sets the threads.
    """
    commit = commit_of(HOUSE)
    changes = without_credentials(changes_of(HOUSE)) if commit.endswith(CHANGED) else ""
    environment = {
        "git_commit": commit,
        "changes": hashlib.sha256(changes.encode(errors="replace")).hexdigest()[:16] if changes else None,
        "plugins": {name: package_state(name) for name in sorted(plugins())},
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "device_type": device.type,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "command": [without_secrets(word) for word in sys.argv[1:] if "tracking." not in word],
    }
    if device.type == "cuda":
        environment |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    return environment, changes


def data_checksums(facts: Mapping) -> dict[str, str | None]:
    """Of the training images, and of all that the run is evaluated on; None for what older code did not record."""
    return {"train": facts.get("checksum"), "test": facts.get("test_checksum")}


def trained_in(record: dict, begun: dict | None, environment: dict, step: int) -> dict:
    """The record of a run that from `step` on is trained in `environment`; begun: its record so far, None of a new run.

    What was done after that step, and lost with the process that did it, is no part of the run.
    """
    before = _environments(begun) if begun else []
    kept = [earlier for earlier in before if earlier["step"] < step]
    if not kept or _without(kept[-1]) != _without(environment):
        kept.append({"step": step, **environment})
    tags = {name: _in_turn(kept, name) for name in TAGS}
    tags["data_checksum"] = " ".join(filter(None, environment["data"].values()))
    return record | {"tags": record["tags"] | tags, "environments": kept}


def changes_file(environments: Sequence[Mapping], environment: Mapping) -> str | None:
    """The name, in the run folder, of the file that says how the code of `environment`, one of `environments`, differed from its
    commit; None when it did not. Code that goes on with a run has a file of its own."""
    digest = environment.get("changes")
    if digest is None:
        return None
    return RunFolder.changes.name if digest == environments[0].get("changes") else f"changes-{str(digest)[:8]}.diff"


def write_changes(folder: Path, record: Mapping, changes: str) -> None:
    """Write the changes of the environment that trains now."""
    name = changes_file(record["environments"], record["environments"][-1])
    if name:
        write_atomically(folder / name, changes.encode(errors="replace"))


def _without(environment: Mapping) -> dict:
    return {name: value for name, value in environment.items() if name not in ("step", "command")}


def _environments(record: Mapping) -> list[dict]:
    """Those of a record; what it tells otherwise when it is older code's, or somebody has damaged them."""
    told = record.get("environments")
    known = isinstance(told, list) and all(
        isinstance(there, dict) and isinstance(there.get("step"), int) for there in told
    )
    return told if known and told else [{"step": 0, "git_commit": record["tags"].get("git_commit", "unknown")}]


def _in_turn(environments: Sequence[Mapping], name: str) -> str:
    """`A then B` when a stretch of training was done in another."""
    told = [(str(there[name]), there.get("changes")) for there in environments if name in there]
    if name != "git_commit":
        told = [(value, None) for value, _ in told]
    return " then ".join(value for (value, _), _ in groupby(told))


def _version(package: str) -> str | None:
    if package == "torch":
        return torch.__version__  # with the build, +cu130
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name, and which of its instructions PyTorch uses: sums are rounded differently in other registers."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(models, "") or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
