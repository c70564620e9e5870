"""What only a CUDA device can show; skipped where there is none."""

import pytest
import torch

from mcl_lab.config.compose import compose
from mcl_lab.tasks.measured import Subject
from mcl_lab.training.figures import EpochFigures
from mcl_lab.training.graphs import WARM_UP

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SMALL = ["pair=resnet8", "data.batch_size=20"]


def subject(*words, device="cuda") -> Subject:
    config = compose([*SMALL, f"trainer.device={device}", *words])
    return Subject(config, threads=2, images=400, test_images=20, num_classes=10, size=8)


def losses(trained: Subject, steps: int) -> torch.Tensor:
    """(steps,) sums of the terms."""
    return torch.stack([sum(trained.step(*next(trained.endless))[0].values()).detach().cpu() for _ in range(steps)])


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("graphs", ["false", "true"])
def test_no_step_waits_for_the_device(precision, graphs):
    trained = subject(f"trainer.precision={precision}", f"trainer.graphs={graphs}")
    figures = EpochFigures(trained.device)

    def step(number: int) -> None:
        images, labels = next(trained.endless)
        terms, own_logits = trained.step(images, labels)
        figures.add(terms, own_logits, labels, number)
        figures.latest()

    for number in range(WARM_UP + 1):  # cuDNN tries its algorithms, memory is pinned, a graph recorded
        step(number)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(WARM_UP + 1, 13):  # within an epoch of 20
            step(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert figures.totals()["images"] == 13 * 20


def test_it_trains_as_a_cpu_does():
    ours, cpu = (subject(device=device) for device in ("cuda", "cpu"))
    torch.testing.assert_close(losses(ours, 1), losses(cpu, 1), rtol=1e-4, atol=0)
    gradients = []
    for trained in (ours, cpu):
        images, labels = next(trained.endless)
        gradients.append(torch.cat([g.flatten().cpu() for g in trained.updates.meta_event.hypergradient(images, labels, 0.1)]))
    assert (gradients[0] - gradients[1]).norm() < 1e-2 * gradients[1].norm()


@pytest.mark.parametrize("words", [["trainer.compile=true"], ["trainer.graphs=true"], ["trainer.graphs=true", "loss=dml"]])
def test_compiled_and_recorded_steps_do_the_same(words, caplog):
    other, plain = subject(*words), subject(*(word for word in words if word.startswith("loss")))
    torch.testing.assert_close(losses(other, 8), losses(plain, 8), rtol=1e-3, atol=0)
    for trained in (other, plain):  # between steps it changes all parameters, and changes them back
        trained.time_meta_event()
    torch.testing.assert_close(losses(other, 3), losses(plain, 3), rtol=1e-2, atol=0)
    assert caplog.messages == []


def test_a_recorded_meta_event_is_the_event(caplog):
    trained = subject("trainer.graphs=true")
    for number in range(WARM_UP + 3):
        images, labels = next(trained.endless)
        recorded, written = (
            torch.cat([gradient.flatten() for gradient in event(images, labels, 0.1 / (number + 1))])
            for event in (trained.hypergradient, trained.event.hypergradient)
        )
        assert (recorded - written).norm() < 1e-3 * written.norm(), number
        trained.step(images, labels)
    assert caplog.messages == []


def test_a_recorded_event_refuses_dropout(caplog):
    trained = subject("trainer.graphs=true")
    network = next(iter(trained.learners.cohort.peers.values()))
    network.register_forward_pre_hook(lambda module, images: torch.nn.functional.dropout(images[0], 0.1))
    for _ in range(WARM_UP + 2):
        trained.time_meta_event()
    assert caplog.messages == ["not launched as a CUDA graph: the losses of a meta event draw random numbers"]
