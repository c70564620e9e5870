"""Memory that runs out ends a run in one line that says what to lower; where it was taken by others, the run goes on later."""

import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from training_runs import BASELINE, assert_same_run, end, fork, main_in, only_folder, start, status

QUIET = [*BASELINE, "tracking=none", "trainer.epochs=6"]
LINE = (
    "mcl_lab: error: out of memory on trainer.device=cpu with data.batch_size=512 for resnet8 and resnet8: "
    "lower data.batch_size, or take trainer.precision=bf16 or smaller networks; "
)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")


def allow_no_more() -> None:
    """This process may have no more memory than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)


def assert_said_in_one_line(cwd) -> None:
    errors = (cwd / "errors.txt").read_text()
    assert errors.startswith(LINE) and errors.count("\n") == 1


def starved(cwd, arguments):
    """A run that may have no more memory than it has after two steps, and but for 16 MB all of that is in use.

    Two steps, as the first compiles kernels: where oneDNN finds no memory for one, it ends in SIGSEGV now and then.
    """
    import torch

    from mcl_lab.training.metrics import EpochMetrics

    original, steps, held = EpochMetrics.add, [], []

    def add(metrics, terms, own_logits, labels, step):
        original(metrics, terms, own_logits, labels, step)
        steps.append(step)
        if len(steps) == 2:
            allow_no_more()
            with suppress(RuntimeError):
                while True:
                    held.append(torch.empty(2**20, dtype=torch.uint8))
            del held[-16:]  # for what is small; a feature map here has 32 MB

    EpochMetrics.add = add
    main_in(cwd, arguments, "errors.txt")


@LINUX
@pytest.mark.full
@pytest.mark.parametrize("epochs", [0, 2])
def test_memory_runs_out_while_training(epochs, undisturbed, tmp_path):
    """In a run's first epoch, and after it was stopped and goes on."""
    arguments = [word for word in QUIET if "size=8" not in word] + ["trainer.checkpoint_steps=1"]
    if epochs:
        process = start(arguments, tmp_path)
        while sum(path.read_text().count("\n") for path in tmp_path.glob("runs/*/metrics.jsonl")) < epochs:
            assert process.poll() is None
            time.sleep(0.005)
        process.terminate()
        end(process)
    assert fork(starved, tmp_path, arguments) == 1
    assert_said_in_one_line(tmp_path)
    folder = only_folder(tmp_path)
    assert status(folder) == "failed"
    again = end(start(arguments, tmp_path))
    assert (again.status, again.err) == (0, "")
    assert_same_run(folder, undisturbed(*arguments))


def refused(what, cwd, arguments):
    """A run whose third step gets no memory."""
    import torch

    from mcl_lab.training.metrics import EpochMetrics

    original = EpochMetrics.add

    def add(metrics, terms, own_logits, labels, step):
        if step == 3:
            if what == "cpu":
                torch.empty(2**60)
            if what == "onednn":
                allow_no_more()
            raise {
                "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
                "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
                "python": MemoryError(),
                "onednn": RuntimeError("could not create a primitive"),
                "onednn, with memory": RuntimeError("could not create a primitive"),
            }[what]
        original(metrics, terms, own_logits, labels, step)

    EpochMetrics.add = add
    main_in(cwd, arguments, "errors.txt")


@pytest.mark.parametrize("what", ["cpu", "gpu", "cublas", "python", pytest.param("onednn", marks=LINUX)])
def test_other_ways_of_saying_so(what, tmp_path):
    assert fork(refused, what, tmp_path, QUIET) == 1
    assert_said_in_one_line(tmp_path)
    assert "Traceback" in (only_folder(tmp_path) / "run.log").read_text()  # where it happened


def without_a_start(cwd, arguments):
    """A run that finds a GPU full when it tries its networks."""
    from mcl_lab.networks.cohort import Cohort

    def forward(cohort, images):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    Cohort.forward = forward
    main_in(cwd, arguments, "errors.txt")


def test_before_the_first_step(tmp_path):
    """It is not taken for images that the networks cannot take."""
    assert fork(without_a_start, tmp_path, QUIET) == 1
    assert_said_in_one_line(tmp_path)


def test_onednn_that_cannot_for_another_reason(tmp_path):
    assert fork(refused, "onednn, with memory", tmp_path, QUIET) == 1
    errors = (tmp_path / "errors.txt").read_text()
    assert "out of memory" not in errors and errors.endswith("RuntimeError: could not create a primitive\n")
