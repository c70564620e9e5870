"""The end of a run on the screen: the result, what it compares with, where everything is, and what comes next."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from mcl_lab.config.compose import CONF
from mcl_lab.config.sweeps import as_typed
from mcl_lab.errors import RunFailed
from mcl_lab.host import last_words
from mcl_lab.host.files import has_types
from mcl_lab.host.screen import show_table, table
from mcl_lab.host.uri import credentials
from mcl_lab.results.selection import baselines_beside
from mcl_lab.runs.journal import read_record
from mcl_lab.runs.layout import RunFolder
from mcl_lab.runs.result import FINAL_METRICS, HEADLINE, read_result
from mcl_lab.terminal.commands import baseline_command, command_line, relative
from mcl_lab.terminal.output import show_lines
from mcl_lab.tracking.delivery import delivery_error, ui_hint, wait_delivered

LONGEST_LOGGING = 600.0  # seconds that models may take; a few for each is usual
HEADINGS = ("own head,\nlast epoch", "own head,\nbest epoch", "best of all\nheads, epochs", "ensemble,\nlast epoch")
COLUMNS = dict(zip(FINAL_METRICS, HEADINGS, strict=True))


def show_result(config: DictConfig, folder: Path, console: Console) -> None:
    """Print a finished run's table of test accuracies and the commands that come next. Raises RunFailed for a damaged result."""
    result = read_result(folder)
    if result is None or not is_whole(result):
        remedy = f"bring it back from a copy, or delete {folder} to train the run again"
        raise RunFailed(f"{RunFolder(folder).result} is damaged; {remedy}")
    beside = baselines_beside(folder.absolute(), HEADLINE)
    is_baseline = result["loss"] == "baseline"
    console.print()
    show_table(console, result_table(result, {} if is_baseline else beside))
    lines = [("run folder", str(folder))]
    if result["steps"] == config.trainer.max_steps:
        lines.insert(0, ("ended", f"after step {result['steps']}, by trainer.max_steps"))
    if not is_baseline:
        missing = {key: peer["network"] for key, peer in result["peers"].items() if not beside.get(key)}
        commands = {baseline_command(config, key, network): network for key, network in missing.items()}
        lines += [(f"baseline of {network}", command) for command, network in commands.items() if command]
    recorded = recording(config, folder)
    lines += recorded
    if config.tracking.models and recorded and recorded[0][0] == "MLflow UI":
        lines += models_logged(config, folder)
    lines.append(("take home", command_line("task=export", f"task.checkpoint={as_typed(str(folder))}")))
    width = max(len(name) for name, _ in lines)
    show_lines(console, lines, width)


def is_whole(result: dict) -> bool:
    """Whether a result.json holds what is shown of it."""
    shown = {"loss": str, "dataset": str, "seed": int, "steps": int, "peers": dict[str, dict]}
    peer = {"network": str, HEADLINE: float}
    return has_types(result, shown) and all(has_types(figures, peer) for figures in result["peers"].values())


def result_table(result: dict, beside: dict[str, list[float]]) -> Table:
    """Test accuracies in %, a row for each peer, beside the mean of its baselines when there are any."""
    shown = [name for name in COLUMNS if any(name in peer for peer in result["peers"].values())]
    columns = [COLUMNS[name] for name in shown] + (["baseline,\nlast epoch", "gain"] if any(beside.values()) else [])
    title = f"Test accuracy (%) on {result['dataset']}, {result['loss']}, seed {result['seed']}"
    made = table(title, ["peer"], columns)
    for key, peer in result["peers"].items():
        cells = [f"{key}: {peer['network']}", *(f"{peer[name]:.2f}" for name in shown)]
        if beside.get(key):
            mean, count = statistics.mean(beside[key]), len(beside[key])
            cells += [f"{mean:.2f}" + (f" (n={count})" if count > 1 else ""), f"{peer[HEADLINE] - mean:+.2f}"]
        made.add_row(*cells)
    return made


def recording(config: DictConfig, folder: Path) -> list[tuple[str, str]]:
    """How to look at the recorded run, or how to deliver a record that could not be."""
    if config.tracking.uri is None:
        return []
    record = read_record(folder)
    if record is None:
        return [("not recorded", f"{RunFolder(folder).record} is damaged")]
    if record["uri"] is None:
        return [("not recorded", "this run was made with tracking=none")]
    sync = command_line("task=sync", f"task.runs={as_typed(str(folder))}")
    hint = ui_hint(folder) if wait_delivered(folder, config.tracking.wait) else None
    if hint is None:
        return [("not yet recorded", f"{delivery_error(folder) or 'the tracking server is slow'}; later: {sync}")]
    command, address = hint
    if command.startswith("mlflow "):
        mlflow = Path(sys.executable).with_name("mlflow")
        program = relative(str(mlflow)) if mlflow.exists() and not shutil.which("mlflow") else "mlflow"
        return [
            ("MLflow UI", program + command.removeprefix("mlflow")),
            ("then open", f"http://127.0.0.1:5000/{address}"),
        ]
    return [("MLflow UI", f"{command.rstrip('/')}/{address}")]


def models_logged(config: DictConfig, folder: Path) -> list[tuple[str, str]]:
    """How to load the networks from MLflow, to which a process of its own has brought them; or why it has not."""
    words = ["task=export", f"task.checkpoint={as_typed(str(folder))}", "task.formats=[]", "task.mlflow=true"]
    models, reason = {}, ""
    with tempfile.TemporaryDirectory(prefix="mcl_lab-") as place:
        said = Path(place, "last_words")
        try:
            ended = subprocess.run(
                [sys.executable, str(CONF.parent / "run.py"), *words, "task.images=0", "task.format=json"],
                env=os.environ | credentials(config.tracking.uri) | last_words.asked_for(said),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LONGEST_LOGGING,
            )
            if ended.returncode == 0:
                models = json.loads(ended.stdout)["models"]
            else:
                reason = last_words.why_ended(ended.returncode, said, ended.stderr)
        except subprocess.TimeoutExpired:
            reason = f"it took longer than {LONGEST_LOGGING:g} s"
    if reason:
        return [("models", f"not logged: {reason}; later: {command_line(*words)}")]
    return [(f"model of {key}", f"mlflow.pytorch.load_model({address!r})") for key, address in models.items()]
