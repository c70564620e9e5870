"""A recorded run as a run folder again, for a process that does not import MLflow: another one asks the store.

    python -m mcl_lab.tracking.fetch URI EXPERIMENT RUN FOLDER

prints one JSON object: what went wrong (`error`), or which run it is, with its files in FOLDER.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcl_lab.errors import InputError
from mcl_lab.host.files import write_atomically
from mcl_lab.host.modules import own_process
from mcl_lab.host.secrets import without_secrets
from mcl_lab.host.uri import credentials, stored_uri
from mcl_lab.runs.layout import RunFolder
from mcl_lab.runs.records import StoreUnavailable
from mcl_lab.runs.result import FINAL
from mcl_lab.tracking.delivery import NOT_INSTALLED

FILES = (RunFolder.config.name, RunFolder.result.name)  # of the artifacts


class NotFetched(Exception):
    """There is no such run, or no store that answers: (one line, the names of the runs that there are)."""

    @property
    def names(self) -> list[str]:
        return self.args[1]

    def __str__(self) -> str:
        return self.args[0]


def fetch(uri: str, experiment: str, run: str, folder: Path) -> dict[str, Any]:
    """Bring a finished run, by its id or name, into an empty folder: config.yaml, result.json and metrics.jsonl, in which
    `step` and time are 0. Of one that is not finished only what is returned.

    Returns `id` (MLflow's), `name`, `state`, `message`, and `uri` as it may be shown. Raises NotFetched, and InputError for a
    URI that MLflow has no store for.
    """
    shown = stored_uri(uri)
    environment = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"} | credentials(uri)
    command = own_process("mcl_lab.tracking.fetch", shown, experiment, run, str(folder))
    done = subprocess.run(
        command,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.splitlines() or ["no answer"])[-1]
        raise NotFetched(f"{shown} cannot be read: {without_secrets(reason)}", []) from None
    if "error" in answer:
        raise NotFetched(without_secrets(answer["error"]), answer.get("names", []))
    return answer | {"uri": shown}


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """The command; what it prints."""
    uri, experiment, name, folder = arguments
    try:
        from mcl_lab.tracking.mlflow.reader import MlflowRuns

        store = MlflowRuns(uri, experiment)
        found = store.find(name)
        if found is None:
            return {"error": f"{store} has no run {name!r}", "names": store.names()}
        if found.state == "finished":
            store.download(found.place, FILES, Path(folder))
            epochs = store.epochs(found.place, lambda name: not name.startswith(FINAL))
            lines = [json.dumps(epoch | {"step": 0, "time_ms": 0}) + "\n" for epoch in epochs]
            write_atomically(RunFolder(folder).epochs, "".join(lines))
    except ImportError:
        return {"error": NOT_INSTALLED}
    except (StoreUnavailable, InputError) as error:
        return {"error": str(error)}
    return {"id": found.place, "name": found.name, "state": found.state, "message": found.message}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
