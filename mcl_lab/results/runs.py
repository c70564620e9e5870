"""What a finished run came to, on disk."""

import json
from pathlib import Path

HEADLINE = "own_head_last_epoch"


def read_result(folder: Path) -> dict | None:
    """The result.json of a run folder; None when the run is not finished."""
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
