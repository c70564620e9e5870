"""Run folders: what is a run's own in them."""

from pathlib import Path

from mcl_lab.config.stored import FILE_NAME

OWN = frozenset(
    {FILE_NAME, "record.json", "metrics.jsonl", "status.json", "result.json", "checkpoints", "run.log", "run.lock"}
    | {"delivery.json", "sender.log", "sender.lock"}
)


def run_folders(root: Path) -> list[Path]:
    """The run folders at `root`: it alone when it is one, else those directly in it. One that holds foreign files is none."""
    folders = [root] if (root / FILE_NAME).exists() else sorted(path.parent for path in root.glob(f"*/{FILE_NAME}"))
    return [folder for folder in folders if not foreign(folder)]


def foreign(folder: Path) -> list[str]:
    """Names in a folder that no run put there."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(name for name in names if name not in OWN and not name.startswith("."))


def is_untrained(folder: Path) -> bool:
    """Whether the run left nothing that took time to make."""
    epochs = folder / "metrics.jsonl"
    made = [*(folder / "checkpoints").glob("*.pt"), *folder.glob("result.json")]
    return not made and not (epochs.exists() and epochs.stat().st_size)
