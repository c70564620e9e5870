"""Every run of the two published tables: its networks by their counts, and a training step of it with a meta event."""

import json

import pytest
import torch
from published_networks import COUNTS, HETEROGENEOUS, HOMOGENEOUS
from training_runs import networks, only_folder, result

from mcl_lab.meta.event import MetaEvent

# pair: (loss, the networks of its peers)
RUNS = {
    **{f"single/{name}": ("baseline", [name]) for name in COUNTS},
    **{name: ("lmcl", [name, name]) for name in HOMOGENEOUS},
    **{"_".join(names): ("lmcl", list(names)) for names in HETEROGENEOUS},
}
ONE_STEP = [
    "data=digits", "data.images.size=8", "data.batch_size=20",
    "trainer=cpu", "trainer.threads=1", "trainer.max_steps=1", "tracking=none",
]  # fmt: skip
EVERYDAY = ("single/hcgnet_a1", "resnet32", "wrn_16_2", "shufflenetv2_05x")


@pytest.fixture
def meta_events(monkeypatch):
    """The hypergradients of the meta events that there were."""
    events, original = [], MetaEvent.apply

    def apply(event, gradients):
        events.append(gradients)
        original(event, gradients)

    monkeypatch.setattr(MetaEvent, "apply", apply)
    return events


@pytest.mark.parametrize(
    "pair", [pytest.param(pair, marks=[] if pair in EVERYDAY else pytest.mark.full) for pair in RUNS]
)
def test_a_run_of_the_tables(pair, call, tmp_path, meta_events):
    loss, names = RUNS[pair]
    chosen = [f"pair={pair}", f"loss={loss}"]

    ended = call("task=summary", "task.format=json", *chosen)
    assert (ended.status, ended.err) == (0, "")
    peers = json.loads(ended.out)["peers"]
    figures = ("parameters", "multi_adds", "parameters_with_branches", "multi_adds_with_branches", "width")
    assert [peer["network"] for peer in peers.values()] == names
    assert [tuple(peer[figure] for figure in figures) for peer in peers.values()] == [COUNTS[name] for name in names]

    short = ["loss.meta_event.inner_steps=1"] if loss == "lmcl" else []
    ended = call(*chosen, *ONE_STEP, *short)
    assert (ended.status, ended.err) == (0, "")
    folder = only_folder(tmp_path)
    assert result(folder)["steps"] == 1
    assert all(torch.as_tensor(value).isfinite().all() for value in networks(folder).values())
    assert len(meta_events) == (1 if loss == "lmcl" else 0)
    for gradient in [gradient for event in meta_events for gradient in event]:
        assert gradient.isfinite().all() and (gradient != 0).any()
