"""Every option of conf/loss trains, a pair and a mixed cohort, and what layer weights a run records."""

import math

import pytest
import torch
from training_runs import RUN, SMALL, epochs, networks, only_folder, result

from mcl_lab.assembly.data import build_data, evaluation_batches
from mcl_lab.assembly.learners import build_learners
from mcl_lab.config.stored import read_config

LOSSES = sorted(path.stem for path in (RUN.parent / "conf/loss").glob("*.yaml"))
COHORTS = {
    "pair": [],
    "mixed": ["pair.peers.b.widths=[4,8,6]", "+network@pair.peers.c=resnet20", "pair.peers.c.widths=[4,4]",
              "pair.peers.c.blocks=[1,2]"],
}  # fmt: skip
LAYERS = ("stage1", "stage2", "own_head")


def layer_weights(folder):
    """By epoch, the metrics of that name."""
    prefix = "layer_weights/"
    return [
        {name.removeprefix(prefix): value for name, value in record["metrics"].items() if name.startswith(prefix)}
        for record in epochs(folder)
    ]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("cohort", COHORTS)
def test_every_loss_trains(loss, cohort, call, tmp_path):
    ended = call(*SMALL, f"loss={loss}", *COHORTS[cohort], "trainer.max_steps=3", "tracking=none")
    assert (ended.status, ended.err) == (0, "")
    folder = only_folder(tmp_path)
    (metrics,) = [record["metrics"] for record in epochs(folder)]
    assert result(folder)["steps"] == 3 and math.isfinite(metrics["train/loss"])
    stages = {"a": LAYERS, "b": LAYERS} | ({"c": ("stage1", "own_head")} if cohort == "mixed" else {})
    pairs = {
        f"{first}.{k}-{second}.{z}"
        for first in stages for second in stages if first < second
        for k in stages[first] for z in stages[second]
    }  # fmt: skip
    assert set(*layer_weights(folder)) == (pairs if loss == "lmcl" else set())


def test_layer_weights_are_the_weight_networks_means(lmcl_run):
    """Of the last epoch, by the final networks and the formula of the weights."""
    config, parameters = read_config(lmcl_run, "x"), networks(lmcl_run)
    data = build_data(config.data, torch.device("cpu"))
    cohort = build_learners(config, len(data.facts.classes), torch.device("cpu"), (8, 8)).cohort.eval()
    cohort.load_state_dict(
        {name.removeprefix("cohort "): value for name, value in parameters.items() if name.startswith("cohort ")}
    )
    with torch.no_grad():
        output = [
            cohort(images).embeddings
            for images, _ in evaluation_batches(data.evaluated["test"], data.facts, batch_size=64, channels_last=True)
        ]

    def compared(i, k):
        embeddings = torch.cat([batch[i][k] for batch in output])
        layer = f"weight_network projections.{i}.{k}"
        vectors = embeddings @ parameters[f"{layer}.weight"].T + parameters[f"{layer}.bias"]
        return vectors / vectors.norm(dim=1, keepdim=True)

    expected = {
        f"a.{LAYERS[k]}-b.{LAYERS[z]}": (1 / (1 + (-(compared(0, k) * compared(1, z)).sum(1)).exp())).mean().item()
        for k in range(3)
        for z in range(3)
    }
    first, last = layer_weights(lmcl_run)
    assert last == pytest.approx(expected, rel=1e-4) and first != last
