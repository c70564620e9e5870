"""What only a CUDA device can show; skipped where there is none."""

import pytest
import torch

from mcl_lab.assembly.rehearsal import Rehearsal
from mcl_lab.config.compose import compose
from mcl_lab.training.graphs import WARM_UP
from mcl_lab.training.metrics import EpochMetrics

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SMALL = ["pair=resnet8", "data.batch_size=20"]


def rehearsal(*words, device="cuda") -> Rehearsal:
    config = compose([*SMALL, f"trainer.device={device}", *words])
    return Rehearsal(config, threads=2, images=400, test_images=20, num_classes=10, size=8)


def losses(trained: Rehearsal, steps: int, *, events: bool = False) -> torch.Tensor:
    """(steps,) sums of the terms, with a meta event after each step or without."""
    found = []
    for _ in range(steps):
        terms, _ = trained.method.step(*next(trained.endless))
        found.append(sum(terms.values()).clone())
        if events:
            trained.time_meta_event()
    return torch.stack(found).cpu()


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("graphs", ["false", "true"])
def test_no_step_waits_for_the_device(precision, graphs):
    trained = rehearsal(f"trainer.precision={precision}", f"trainer.graphs={graphs}")
    metrics = EpochMetrics(trained.device)

    def step(number: int) -> None:
        images, labels = next(trained.endless)
        terms, own_logits = trained.method.step(images, labels)
        metrics.add(terms, own_logits, labels, number)
        metrics.latest()

    for number in range(WARM_UP + 1):  # cuDNN tries its algorithms, memory is pinned, a graph recorded
        step(number)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(WARM_UP + 1, 13):  # within an epoch of 20
            step(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metrics.totals()["images"] == 13 * 20


def test_it_trains_as_a_cpu_does():
    ours, cpu = (rehearsal(device=device) for device in ("cuda", "cpu"))
    torch.testing.assert_close(losses(ours, 1), losses(cpu, 1), rtol=1e-4, atol=0)
    gradients = []
    for trained in (ours, cpu):
        images, labels = next(trained.endless)
        gradients.append(
            torch.cat([g.flatten().cpu() for g in trained.method.meta_event.hypergradient(images, labels, 0.1)])
        )
    assert (gradients[0] - gradients[1]).norm() < 1e-2 * gradients[1].norm()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["trainer.precision=bf16"],
        ["trainer.channels_last=false"],
        ["loss=dml"],
        ["data.batch_size=30"],
    ],  # 400 = 13 * 30 + 10
    ids=" ".join,
)
def test_recorded_steps_and_events_have_the_bits_of_those_as_written(words, caplog):
    words = [*words, "trainer.deterministic=true"]
    runs = []
    for graphs in ("false", "true"):
        trained = rehearsal(*words, f"trainer.graphs={graphs}")
        runs.append(losses(trained, 3 * len(trained.batches), events=True))
    assert runs[0].equal(runs[1])
    assert [line for line in caplog.messages if "graph" in line] == []


@pytest.mark.parametrize(
    "words", [["trainer.compile=true"], ["trainer.compile=true", "trainer.graphs=true"]], ids=" ".join
)
def test_compiled_steps_do_the_same(words):
    compiled, plain = rehearsal(*words), rehearsal()
    torch.testing.assert_close(losses(compiled, 5), losses(plain, 5), rtol=1e-3, atol=0)
    for trained in (compiled, plain):  # between steps it changes all parameters, and changes them back
        trained.time_meta_event()
    torch.testing.assert_close(losses(compiled, 3), losses(plain, 3), rtol=1e-2, atol=0)


def test_a_recorded_event_refuses_dropout(caplog):
    trained = rehearsal("trainer.graphs=true")
    network = next(iter(trained.method.cohort.peers.values()))
    network.register_forward_pre_hook(lambda module, images: torch.nn.functional.dropout(images[0], 0.1))
    losses(trained, WARM_UP + 2, events=True)
    refusals = [line for line in caplog.messages if "graph" in line]
    assert refusals == ["not launched as a CUDA graph: the losses of a meta event draw random numbers"]
