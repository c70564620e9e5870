"""An MLflow store that somebody else filled: task=report writes only where it is told to, escapes what it shows, and goes on
past what makes no sense."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from mcl_lab import cli

ESCAPES = "\x1b]0;mine\x07\x1b[2J\u202e"
TEXTS = [
    "../../outside", "/outside", "..", "", " ", ESCAPES, r"\input{/etc/passwd}", "$x_1^2$ 50% {a} & #1 ~ \\",
    "<script>alert(1)</script>",
    "| a | **b** `c` [d](javascript:e)", "'; drop table runs; --", "=1+1", "null", "3", "x" * 4000, "é 北京 🙂", "a\nb\tc",
]  # fmt: skip
JSONS = [
    "", "null", "3", '"text"', "[]", "[[1, 2], [3, 4]]", "{}", '{"a": 3}', '{"a": {"name": null}}', '{"a": {"name": [1]}}',
    '{"a": {}, "b": []}', "{" + '"a": {' * 400 + "}" * 400 + "}", '{"trainer.epochs": "\\u001b[2J"}', '{"data.validation": "x"}',
    '{"optimizer._target_": {"x": [1]}}', '{"data.images.limit": [[]], "trainer.max_steps": {}}', "9" * 4000,
    '{"a": {"name": "\\ud800"}}',
]  # fmt: skip
PEER = {"name": "resnet8", "_target_": "mcl_lab.networks.resnet.ResNet"}
TAGS = {
    "pair": "resnet8", "kind": "homogeneous", "loss": "lmcl", "dataset": "digits", "seed": "0", "git_commit": "a" * 40,
    "recipe_key": "c" * 64, "repeat_key": "d" * 64, "recipe": json.dumps({"trainer.epochs": 2, "data.batch_size": 64}),
    "peers": json.dumps({"a": PEER, "b": PEER}), "mcl_lab.state": "finished",
}  # fmt: skip


def hostile_tags():
    """Whole sets of tags of which one is wrong, or gone."""
    yield TAGS
    for tag in TAGS:
        values = JSONS if tag in ("recipe", "peers") else TEXTS
        yield from (TAGS | {tag: value} for value in values)
        yield {name: value for name, value in TAGS.items() if name != tag}
    yield TAGS | {"../../outside": "x", "a b": ESCAPES}


@pytest.fixture(scope="module")
def hostile_store(tmp_path_factory):
    """Each set as a run with curves and final metrics, each in a recipe of its own, so that none hides another."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    client = MlflowClient(tracking_uri=f"sqlite:///{file}")
    experiment = client.create_experiment("mcl_lab", artifact_location=(file.parent / "artifacts").as_uri())
    for number, tags in enumerate(hostile_tags()):
        own = {"mcl_lab.id": str(number), "mcl_lab.run_key": f"{number:064}"}
        if tags.get("repeat_key") == TAGS["repeat_key"]:
            own |= {"repeat_key": f"{number:064}"[::-1]}
        if tags.get("recipe_key") == TAGS["recipe_key"]:
            own |= {"recipe_key": f"{number:064}"}
        made = client.create_run(experiment, run_name=f"{number} {ESCAPES}", tags=tags | own)
        names = ["train/loss", "train/a b_c", "test/a/own_head", "test/b/own_head", "layer_weights/a.stage1-b.own_head"]
        points = [Metric(name, 50.0 + epoch, epoch, epoch) for name in names for epoch in (1, 2)]
        points += [Metric(f"final/{peer}/own_head_last_epoch", 60.0, 2, 2) for peer in "ab"]
        params = [Param("loss.weight", TEXTS[number % len(TEXTS)]), Param("pair.peers.a.width", ESCAPES)]
        client.log_batch(made.info.run_id, metrics=points, params=params, tags=[RunTag("note", ESCAPES)])
        client.set_terminated(made.info.run_id)
    return file


@pytest.fixture
def report(hostile_store, tmp_path, monkeypatch, capsys):
    """report(*words) -> what it printed, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = cli.main(["task=report", "task.source=mlflow", f"tracking.uri=sqlite:///{hostile_store}", *words])
        out, err = capsys.readouterr()
        assert status == 0, err
        assert all(letter.isprintable() or letter == "\n" for letter in out + err)
        assert "Traceback" not in err and "left out" in err  # those without a recipe or peers
        return out

    return call


@pytest.mark.full
@pytest.mark.parametrize("words", [[], ["task.metric=all"], ["task.missing=rows"]], ids=" ".join)
def test_the_terminal(report, words, tmp_path):
    assert "resnet8" in report(*words).lower() and not list(tmp_path.iterdir())


@pytest.mark.full
def test_latex(report):
    out = report("task.format=latex")
    assert r"\input" not in out and r"\textbackslash{}input" in out
    for line in out.splitlines():
        if not line.startswith("%"):
            assert line.replace(r"\{", "").count("{") == line.replace(r"\}", "").count("}")


@pytest.mark.full
def test_markdown(report):
    out = report("task.format=markdown")
    assert "<script" not in out and "&lt;script" in out and not re.search(r"(?<!\\)\]\(javascript", out)
    widths = [line.replace(r"\|", "").count("|") for line in out.splitlines() if line.startswith("|")]
    assert set(widths) <= {5, 6, 8, 9}  # with and without methods and published numbers


@pytest.mark.full
def test_csv(report):
    rows = list(csv.reader(io.StringIO(report("task.format=csv"))))
    assert len(rows) > 50 and {len(row) for row in rows} == {17}


@pytest.mark.full
def test_plots_stay_in_their_folder(report, tmp_path, hostile_store, monkeypatch):
    """Drawn of the runs whose names are paths alone: a plot takes a second."""
    monkeypatch.chdir(tmp_path)
    for word in ("../../outside", "/outside", ".."):
        out = cli.main(
            ["task=report", "task.source=mlflow", f"tracking.uri=sqlite:///{hostile_store}", f"task.tag={{pair: '{word}'}}",
             "task.plots=drawn", "task.attach=false"]
        )  # fmt: skip
        assert out == 0
    made = [path for path in Path().rglob("*") if path.is_file()]
    assert made and all(path.parts[0] == "drawn" and len(path.parts) == 3 for path in made)
    assert not list(tmp_path.parent.glob("outside*")) and not list(tmp_path.parent.parent.glob("outside*"))


@pytest.mark.full
@pytest.mark.parametrize("name", ["x' or 1=1 --", 'a"b', "`", "%", "50% & more"])
def test_names_in_questions_to_the_store(name, tmp_path, monkeypatch, capsys, hostile_store):
    monkeypatch.chdir(tmp_path)
    words = ["task=report", "task.source=mlflow", f"tracking.uri=sqlite:///{hostile_store}"]
    for key in ("task.sweep", "task.dataset", "tracking.experiment"):
        assert cli.main([*words, f"{key}='" + name.replace("'", "\\'") + "'"]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("mcl_lab: error: t")
