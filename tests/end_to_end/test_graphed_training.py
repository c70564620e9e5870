"""trainer.graphs: steps and meta events can be recorded, and launched again they do the same.

They are recorded on a CPU, where what waits for a device is refused as by a CUDA graph (recorded.py).
"""

import pytest
import torch
from recorded import CpuRecorder

from mcl_lab.assembly.rehearsal import Rehearsal
from mcl_lab.config.catalogue import catalogue
from mcl_lab.config.compose import compose
from mcl_lab.training.graphs import WARM_UP, Graphed

SMALL = ["pair=resnet8", "data.batch_size=20"]
LOSSES = [found.name for found in catalogue()["loss"]]


@pytest.fixture(autouse=True)
def recorder(monkeypatch):
    monkeypatch.setattr(Graphed, "recorder", CpuRecorder)
    monkeypatch.setattr(
        "mcl_lab.assembly.rehearsal.use_device", lambda trainer: torch.device("cpu")
    )  # which refuses graphs


def trained(words, *, graphs, steps=WARM_UP + 3):
    """What steps, each with its meta event and each of another learning rate, put out; all states at their end."""
    config = compose([*SMALL, *words, f"trainer.graphs={graphs}"])
    rehearsal = Rehearsal(config, threads=1, images=400, test_images=20, num_classes=10, size=8)
    method = rehearsal.method
    found = []
    for number in range(steps):
        images, labels = next(rehearsal.endless)
        method.optimizer.param_groups[0]["lr"] = 0.1 / (number + 1)
        terms, own_logits = method.step(images, labels)
        found += [value.clone() for value in (*terms.values(), *own_logits)]
        if method.meta_event:
            gradients = method.hypergradient(images, labels)
            found += [value.clone() for value in gradients]
            method.apply(gradients)
    parts = rehearsal.time_step()  # trains one more
    if graphs:
        assert set(parts) == {"step", "data", "graph", "optimizer"}
        assert len(method.step._work._recorded) == 1
        assert method.meta_event is None or len(method._hypergradient._recorded) == 1
    return found + [value for state in method.networks().values() for value in state.values()]


def check(caplog, *words):
    once, again = trained(words, graphs=False), trained(words, graphs=True)
    assert caplog.messages == []  # nothing was refused
    assert len(once) == len(again) > 20
    for a, b in zip(once, again, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, caplog):
    check(caplog, f"loss={loss}")


@pytest.mark.full
@pytest.mark.parametrize(
    "words",
    [
        ["trainer.precision=bf16"],
        ["+network@pair.peers.c=resnet8", "optimizer=adamw"],
        ["pair=wrn_16_2", "pair.peers.a.depth=10", "pair.peers.b.depth=10", "trainer.channels_last=false"],
        ["pair=shufflenetv2_05x", "pair.peers.a.blocks=[1,1,1]", "pair.peers.b.blocks=[1,1,1]"],
        ["pair=hcgnet_a1", "pair.peers.a.units=[1,2,1]", "pair.peers.b.units=[2,1,1]"],
    ],
    ids=" ".join,
)
def test_other_networks_and_settings(words, caplog):
    check(caplog, *words)
