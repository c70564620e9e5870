"""A finished sweep in MLflow's real UI, in a real browser. The pictures are in the test's folder, to be looked at."""

import os
import re
import shutil
import subprocess
import sys
from urllib.parse import quote

import pytest
from browser import open_browser, why_not
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from training_runs import RUN, SMALL

pytestmark = [pytest.mark.full, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
ROWS = "rows: [{loss: [lmcl, baseline], pair.peers.b.widths: [[4, 8, 8], [4, 8, 16]]}]"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ui")
    server = MlflowServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def sweep(server):
    """What the launcher has said in the end; plots are drawn."""
    folder = server.folder
    (folder / "conf" / "sweeps").mkdir(parents=True)
    (folder / "conf" / "sweeps" / "pairs.yaml").write_text(ROWS)
    smaller = [word for word in SMALL if "peers.b" not in word] + [
        "trainer.epochs=3",
        "tracking.system=1",
        f"tracking.uri={server.uri}",
    ]
    sweeps = ["--config-dir=conf", "+sweeps=pairs", "hydra.launcher.jobs=2"]

    def run(*arguments):
        command = [sys.executable, str(RUN), *arguments]
        return subprocess.run(command, cwd=folder, check=True, text=True, capture_output=True).stdout

    said = run(*sweeps, *smaller)
    run("task=report", f"tracking.uri={server.uri}", "task.plots=plots")
    for homogeneous in (folder / "runs").glob("resnet8-lmcl-*"):
        run("task=export", f"task.checkpoint={homogeneous.relative_to(folder)}", "task.formats=[]", "task.mlflow=true")
    return said


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def picture(browser, server, request):
    yield
    browser.save(server.folder / f"{request.node.name}.png")
    if kept := os.environ.get("PICTURES"):
        shutil.copy(server.folder / f"{request.node.name}.png", kept)


def runs_of(server):
    client = MlflowClient(tracking_uri=server.uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "mcl_lab"]
    runs = client.search_runs([experiment.experiment_id])
    return experiment.experiment_id, {run.info.run_name: run for run in runs}


def test_the_address_that_a_sweep_ends_with(server, sweep, browser, picture):
    """Its runs, all of them shown, with a chart for each metric in groups."""
    (address,) = re.findall(r"MLflow UI +(http\S+)", sweep)
    browser.open(address)
    _, runs = runs_of(server)
    names = [name for name in runs if name != "pairs"]
    assert len(names) == 4
    browser.wait_for(*names, "4 matching runs", "test/a\n", "test/b\n", "train\n", "layer_weights\n")


def test_two_pairs_over_epochs(server, sweep, browser, picture):
    """A homogeneous and a heterogeneous pair in one chart."""
    experiment, runs = runs_of(server)
    two = [run for run in runs.values() if run.data.params.get("loss") == "lmcl"]
    assert sorted(run.data.tags["kind"] for run in two) == ["heterogeneous", "homogeneous"]
    wanted = quote("params.loss = 'lmcl'")
    order = quote("tags.`mlflow.runName`")
    page = f"#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode=CHART"
    browser.open(f"{server.uri}/{page}&orderByKey={order}&orderByAsc=true&searchFilter={wanted}")
    browser.wait_for("2 matching runs")
    browser.find("input[placeholder='Search metric charts']")[0].send_keys("test/./own_head$")
    text = browser.wait_for("test/a/own_head", "test/b/own_head")
    for run in two:
        assert f"{run.info.run_name} (test/a/own_head)" in text
    assert "final/a" not in text


def test_parameters_that_differ(server, sweep, browser, picture):
    _, runs = runs_of(server)
    ids = quote(str([run.info.run_id for name, run in runs.items() if name != "pairs"]).replace("'", '"'))
    experiment = next(iter(runs.values())).info.experiment_id
    browser.open(f"{server.uri}/#/compare-runs?runs={ids}&experiments=" + quote(f'["{experiment}"]'))
    text = browser.wait_for("Comparing 4 Runs", "pair.peers.b.widths", "loss")
    assert "[4, 8, 16]" in text


def test_a_sweep_has_its_table(server, sweep, browser, picture):
    experiment, runs = runs_of(server)
    browser.open(f"{server.uri}/#/experiments/{experiment}/runs/{runs['pairs'].info.run_id}/artifacts/table.md")
    browser.wait_for("table.md", "ours gain", "Test accuracy (%)")


def test_a_run_has_its_networks(server, sweep, browser, picture):
    experiment, runs = runs_of(server)
    (run,) = [run for name, run in runs.items() if name.startswith("resnet8-lmcl-")]
    browser.open(f"{server.uri}/#/experiments/{experiment}/runs/{run.info.run_id}")
    browser.wait_for("Logged models", "a-resnet8", "b-resnet8")


def test_a_run_has_its_machine(server, sweep, browser, picture):
    experiment, runs = runs_of(server)
    run = next(run for run in runs.values() if run.data.params.get("loss") == "lmcl")
    browser.open(f"{server.uri}/#/experiments/{experiment}/runs/{run.info.run_id}/system-metrics")
    browser.wait_for("System metrics", "cpu_utilization_percentage", f"{run.info.run_name} (system/")
    assert browser.find(".js-plotly-plot")


def test_a_run_has_config_data_and_plots(server, sweep, browser, picture):
    experiment, runs = runs_of(server)
    run = next(run for run in runs.values() if run.data.params.get("loss") == "lmcl")
    page = f"{server.uri}/#/experiments/{experiment}/runs/{run.info.run_id}"
    browser.open(page)
    browser.wait_for("digits (", "Training", "pair.peers.a.widths", "Parent run")
    browser.open(f"{page}/artifacts/config.yaml")
    browser.wait_for("config_version: 1", "mcl_lab.networks.resnet.ResNet")
    browser.open(f"{page}/artifacts/figures/accuracy.png")
    browser.wait_for("accuracy.png")
    assert any((image.get_attribute("src") or "").startswith("blob:") for image in browser.find("img"))
