"""The ledger of a sweep, and what its runs' folders and processes say."""

from pathlib import Path

from omegaconf import DictConfig

from mcl_lab.config.identity import identity_of
from mcl_lab.host.files import read_json, write_json
from mcl_lab.host.processes import is_alive, this_host
from mcl_lab.launch.ledger import Ledger, Run, Seen
from mcl_lab.runs.journal import is_finished, read_last_epoch, read_status
from mcl_lab.runs.lock import holder_of, is_held


def ledger_of(folder: Path, *, saved: bool = True) -> Ledger:
    """The ledger in a sweep's folder, or in a job's; not `saved`: what is changed in it stays in memory."""
    return Ledger(folder, read=read_json, write=write_json if saved else _forget, observe=observe)


def run_of(config: DictConfig, folder: Path, sweep: Path) -> Run:
    """A run of that config in that folder, as the ledger of a sweep has it; sweep: the sweep's folder."""
    identity = identity_of(config)
    return Run(
        folder=str(folder),
        run_key=identity.run_key,
        pair=identity.pair,
        loss=str(config.loss.name),
        dataset=str(config.data.name),
        seed=config.seed,
        epochs=config.trainer.epochs,
        uses_gpu=config.trainer.device != "cpu",
        log=str(sweep / "logs" / f"{folder.name}.log"),
    )


def observe(run: Run) -> Seen:
    """What a run's folder and its latest process say now."""
    folder, latest = Path(run.folder), run.latest
    started = latest is not None and latest.pid and latest.ended_ms is None and latest.host == this_host()
    alive = bool(started) and is_alive(latest.pid, latest.process_start)
    try:
        status = read_status(folder) or {"state": None, "message": "", "started_ms": 0}
        finished = is_finished(folder)
        alive = not finished and (alive or is_held(folder))
        last = read_last_epoch(folder) or {"epoch": 0, "metrics": {}}
        lock = holder_of(folder) if alive else None
    except OSError as error:  # one folder that cannot be read must not hide the other runs
        return Seen(alive, "failed", f"its folder cannot be read: {error}", 0, 0, [])
    state = None if status["state"] == "finished" and not finished else status["state"]  # without its result it is not
    own_heads = [
        value for key, value in last["metrics"].items() if key.startswith("test/") and key.endswith("/own_head")
    ]
    holder = lock["slurm"][0] if lock and lock["slurm"] else None
    return Seen(alive, state, status["message"], status["started_ms"], last["epoch"], own_heads, holder)


def _forget(path: Path, value: dict) -> None: ...
