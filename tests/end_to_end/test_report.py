"""task=report on runs that were trained: in the terminal, as files, from MLflow, with plots."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shell import as_nobody
from training_runs import RUN, epochs, result

from mcl_lab.results.plots import layer_weights_plot
from mcl_lab.tracking.mlflow.store import deliver


@pytest.fixture
def trained(lmcl_run, alone_run, interrupted_run, tmp_path):
    """Three runs in tmp_path/runs: an L-MCL pair, its network alone (both of two epochs) and a pair of another seed that was
    interrupted. The baseline's batches differ from the pair's: it is given the pair's recipe."""
    runs = tmp_path / "runs"
    folders = [Path(shutil.copytree(folder, runs / folder.name)) for folder in (lmcl_run, alone_run)]
    stopped = Path(shutil.copytree(interrupted_run, runs / "stopped"))
    pair, alone = (json.loads((folder / "record.json").read_text()) for folder in folders)
    for name in ("recipe", "recipe_key"):
        alone["tags"][name] = pair["tags"][name]
    other = json.loads((stopped / "record.json").read_text()) | {
        "name": "stopped",
        "run_key": "another",
        "id": "another",
    }
    other["tags"]["seed"] = "1"
    for folder, record in ((folders[1], alone), (stopped, other)):
        (folder / "record.json").write_text(json.dumps(record))
    return folders


@pytest.fixture
def delivered(trained, store, tmp_path):
    """The same runs in the store of tracking's default URI."""
    for folder in (tmp_path / "runs").iterdir():
        record = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps(record | {"uri": f"sqlite:///{store.file}"}))
        deliver(folder)
    return trained


def test_the_table(call, trained):
    pair, alone = (result(folder) for folder in trained)
    ended = call("task=report", "task.source=folders")
    assert (ended.status, ended.err) == (0, "mcl_lab: 3 runs read from the run folders in runs\n")
    ours = sum(peer["own_head_last_epoch"] for peer in pair["peers"].values()) / 2
    baseline = alone["peers"]["a"]["own_head_last_epoch"]
    (row,) = [line for line in ended.out.splitlines() if line.startswith("resnet8 ")]
    assert f" {baseline:.2f} (1) " in row and f" {ours:.2f} (1) " in row and row.endswith(f" {ours - baseline:+.2f}")
    assert "not finished: stopped (interrupted, epoch 0 of 2)" in ended.out
    assert "digits, 2 epochs, batch 64" in ended.out and "publ." not in ended.out and "no runs yet" not in ended.out


@pytest.mark.parametrize("format", ["table", "markdown", "csv", "latex"])
def test_an_ascii_terminal_gets_the_same_in_its_letters(call, trained, monkeypatch, format):
    arguments = ["task=report", "task.source=folders", f"task.format={format}"]
    known = call(*arguments).out
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    assert call(*arguments).status == 0
    words = [text.replace("±", "+-").replace("–", "-").split() for text in (known, raw.getvalue().decode("ascii"))]
    if format == "table":  # rich draws other lines
        words = [[word.strip("|─-+") for word in text if word.strip("|─-+")] for text in words]
    assert words[0] == words[1] and words[0]


@pytest.mark.full
def test_a_user_without_name_and_home_folder(delivered, tmp_path):
    command = [*as_nobody(), sys.executable, str(RUN), "task=report", "task.plots=drawn"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "mean ± std" in done.stdout, done.stderr
    assert done.stderr.splitlines()[-1] == "mcl_lab: plots of 1 rows are in drawn, attached to 1 MLflow runs"


@pytest.mark.parametrize("metric", ["own_head_best_epoch", "best_of_all_heads_and_epochs", "ensemble_last_epoch"])
def test_other_metrics(call, trained, metric):
    pair, alone = (result(folder) for folder in trained)
    ended = call("task=report", "task.source=folders", "task.format=csv", f"task.metric={metric}")
    (row,) = csv.DictReader(io.StringIO(ended.out))
    assert float(row["mean"]) == pytest.approx(sum(peer[metric] for peer in pair["peers"].values()) / 2)
    beside = "own_head_last_epoch" if metric == "ensemble_last_epoch" else metric
    assert float(row["baseline_mean"]) == pytest.approx(alone["peers"]["a"][beside])


@pytest.mark.parametrize("format", ["table", "markdown", "csv", "latex"])
def test_mlflow_tells_the_same_as_the_folders(call, delivered, format):
    arguments = ["task=report", f"task.format={format}", "task.metric=all"]
    from_folders = call(*arguments, "task.source=folders")
    from_mlflow = call(*arguments)
    assert (from_folders.status, from_mlflow.status) == (0, 0)
    assert from_mlflow.err.startswith("mcl_lab: 3 runs read from experiment 'mcl_lab' in sqlite:///")
    assert from_mlflow.out == from_folders.out and from_mlflow.out


def test_plots_of_a_row_are_drawn_and_attached(call, delivered, tmp_path):
    drawn = call("task=report", "task.plots=drawn", "task.format=csv")
    assert drawn.status == 0
    assert drawn.err.splitlines()[-1] == "mcl_lab: plots of 1 rows are in drawn, attached to 1 MLflow runs"
    (folder,) = (tmp_path / "drawn").iterdir()
    assert re.fullmatch(r"resnet8-lmcl-[0-9a-f]{8}", folder.name)
    names = {f"{name}.{kind}" for name in ("accuracy", "loss") for kind in ("png", "svg")}
    assert {file.name for file in folder.iterdir()} >= names
    attached = {file.name: file.read_bytes() for file in tmp_path.glob("mlartifacts/**/figures/*")}
    assert attached == {file.name: file.read_bytes() for file in folder.iterdir()}
    again = call("task=report", "task.plots=again", "task.source=folders", "task.format=csv")
    assert again.err.splitlines()[-1] == "mcl_lab: plots of 1 rows are in again"
    (other,) = (tmp_path / "again").iterdir()
    assert {file.name: file.read_bytes() for file in other.iterdir()} == attached


def test_the_layer_weights_of_a_journal_are_drawn(call, trained, tmp_path, monkeypatch):
    heads = ["stage1", "stage2", "own_head"]
    lines = epochs(trained[0])
    for line in lines:
        weights = {
            f"layer_weights/a.{k}-b.{z}": 0.1 * line["epoch"] + 0.01 * row + 0.001 * column
            for row, k in enumerate(heads)
            for column, z in enumerate(heads)
        }
        line["metrics"] |= dict(sorted(weights.items()))
    (trained[0] / "metrics.jsonl").write_text("".join(json.dumps(line | {"time_ms": 0}) + "\n" for line in lines))
    drawn = []

    def spy(title, at, pairs):
        drawn.append((list(at), pairs))
        return layer_weights_plot(title, at, pairs)

    monkeypatch.setattr("mcl_lab.results.report_plots.layer_weights_plot", spy)
    assert call("task=report", "task.plots=drawn", "task.source=folders").status == 0
    assert len(list((tmp_path / "drawn").glob("*/layer_weights.*"))) == 2
    ((at, (pair,)),) = drawn
    assert at == [1, 2] and pair.row_heads == pair.column_heads == ["1", "2", "own"]
    assert (pair.rows[:2], pair.columns[:2]) == ("a:", "b:")
    ours, row, column = np.ogrid[1:3, 0:3, 0:3]
    assert np.allclose(pair.values, 0.1 * ours + 0.01 * row + 0.001 * column)


def test_only_plots_import_matplotlib_and_reading_folders_no_mlflow(trained, tmp_path):
    command = [sys.executable, "-X", "importtime", str(RUN), "task=report", "task.source=folders"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    imported = {line.split("|")[-1].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"matplotlib", "mlflow", "torch"}


def test_runs_that_a_store_should_have_and_has_not_are_told(call, trained, store, tmp_path):
    for folder in (tmp_path / "runs").iterdir():
        record = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps(record | {"uri": f"sqlite:///{store.file}"}))
    deliver(trained[0])
    ended = call("task=report")
    missing, read = ended.err.splitlines()
    assert missing == "mcl_lab: 2 of the runs in runs are not there (yet): python run.py task=sync delivers them"
    assert ended.status == 0 and read.startswith("mcl_lab: 1 runs read from experiment ")
    assert all(line == line.rstrip() for line in ended.out.splitlines())


def test_without_a_store_the_folders_are_read_and_no_store_is_made(call, trained, tmp_path):
    ended = call("task=report")
    assert ended.status == 0 and ended.out
    first, second = ended.err.splitlines()
    assert first == f"mcl_lab: not from MLflow: there is no file {tmp_path}/mlflow.db"
    assert second == "mcl_lab: 3 runs read from the run folders in runs"
    assert not list(tmp_path.glob("mlflow.db*"))


def ledger(folder: Path, *entries: tuple[str, str]) -> None:
    folder.mkdir(parents=True)
    runs = [{"folder": f"runs/{name}", "run_key": key} for name, key in entries]
    (folder / "ledger.json").write_text(json.dumps({"name": folder.name, "runs": runs}))


def test_a_sweep_is_its_ledgers_runs(call, trained, tmp_path):
    key = json.loads((trained[0] / "record.json").read_text())["run_key"]
    ledger(tmp_path / "runs" / "sweeps" / "two", ("there", key), ("to-come", "0" * 64))
    ended = call("task=report", "task.source=folders", "task.sweep=two")
    assert ended.status == 0 and "stopped" not in ended.out
    assert "1 of the 2 runs of two have not begun: to-come" in ended.err
    wrong = call("task=report", "task.source=folders", "task.sweep=tow")
    assert wrong.status == 2 and wrong.err.splitlines()[-1] == (
        "mcl_lab: error: task.sweep: there is no sweep 'tow'; did you mean two?; there are two"
    )


def test_without_a_ledger_a_sweep_is_its_tag(call, trained):
    record = json.loads((trained[0] / "record.json").read_text())
    record["tags"]["sweep"] = "tagged"
    (trained[0] / "record.json").write_text(json.dumps(record))
    ended = call("task=report", "task.source=folders", "task.sweep=tagged")
    assert ended.status == 0 and "stopped" not in ended.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task.dataset=digit"], "task.dataset: no run has 'digit'; did you mean digits?; there are digits"),
        (["task.tag={pairs: resnet8}"], "task.tag.pairs: no run has such a tag; did you mean pair?"),
        (["task.tag={seed: 7}"], "task.tag.seed: no run has '7'; there are 0, 1"),
        (["task.runs=nowhere"], "task.runs: there is no folder nowhere"),
        (["task.runs=empty"], "task.runs: there are no runs in the run folders in empty"),
        (["task.plots=file/in"], "task.plots: cannot write into file/in/"),
        (["task.format=pdf"], "task.format: must be one of table, markdown, csv, latex"),
        (["task.source=mlflow"], "tracking.uri: there is no file "),
        (["task.source=mlflow", "tracking=none"], "tracking.uri: tracking.uri is null; task.source=folders"),
        (["task.source=mlflow", "tracking.uri=http://127.0.0.1:9"], "tracking.uri: http://127.0.0.1:9 does not answer"),
    ],
)
def test_wrong_input_is_one_line(call, trained, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    ended = call("task=report", *(["task.source=folders"] if "source" not in arguments[0] else []), *arguments)
    assert ended.status == 2
    assert f"mcl_lab: error: {message}" in ended.err.splitlines()[-1]


def test_a_record_of_older_code_is_left_out_and_named(call, trained):
    record = json.loads((trained[0] / "record.json").read_text())
    del record["tags"]["recipe"]
    (trained[0] / "record.json").write_text(json.dumps(record))
    ended = call("task=report", "task.source=folders")
    assert ended.status == 0 and f"{trained[0].name} is left out" in ended.err
