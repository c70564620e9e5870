"""Memory that runs out ends a run in one line that says what to lower; where it was taken by others, the run goes on later."""

import resource
import sys
import time
from pathlib import Path

import pytest
from runs import BASELINE, assert_same_run, end, fork, main_in, only_folder, start, status

QUIET = [*BASELINE, "tracking=none", "trainer.epochs=6"]
LINE = (
    "mcl_lab: error: out of memory on trainer.device=cpu with data.batch_size=512 for resnet8 and resnet8: "
    "lower data.batch_size, or take trainer.precision=bf16 or smaller networks; "
)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of another process")
@pytest.mark.full
@pytest.mark.parametrize("epochs", [0, 2])
def test_memory_runs_out_while_training(epochs, undisturbed, tmp_path):
    """The process may have no more than it has when it begins, or goes on; what it had for a step once, it keeps."""
    arguments = [word for word in QUIET if "size=8" not in word] + ["trainer.checkpoint_steps=1"]

    def wait_for(text, files, count=1):
        while sum(path.read_text().count(text) for path in tmp_path.glob(f"runs/*/{files}")) < count:
            assert process.poll() is None
            time.sleep(0.005)

    process = start(arguments, tmp_path)
    if epochs:
        wait_for("\n", "metrics.jsonl", epochs)
        process.terminate()
        end(process)
        process = start(arguments, tmp_path)
    wait_for("going on" if epochs else "starting", "run.log")
    words = Path(f"/proc/{process.pid}/statm").read_text().split()
    resource.prlimit(process.pid, resource.RLIMIT_AS, (int(words[0]) * resource.getpagesize(),) * 2)
    ended = end(process)
    assert ended.status == 1 and ended.err.startswith(LINE) and ended.err.count("\n") == 1
    folder = only_folder(tmp_path)
    assert status(folder) == "failed"
    again = end(start(arguments, tmp_path))
    assert (again.status, again.err) == (0, "")
    assert_same_run(folder, undisturbed(*arguments))


def refused(what, cwd, arguments):
    """A run whose third step gets no memory."""
    import torch

    from mcl_lab.training.figures import EpochFigures

    original = EpochFigures.add

    def add(figures, terms, own_logits, labels, step):
        if step == 3:
            raise {
                "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
                "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
                "python": MemoryError(),
            }[what]
        original(figures, terms, own_logits, labels, step)

    EpochFigures.add = add
    main_in(cwd, arguments)


@pytest.mark.parametrize("what", ["gpu", "cublas", "python"])
def test_other_ways_of_saying_so(what, tmp_path):
    assert fork(refused, what, tmp_path, QUIET) == 1
    output = (tmp_path / "output.txt").read_text()
    assert LINE in output and "Traceback" not in output
    assert "Traceback" in (only_folder(tmp_path) / "run.log").read_text()  # where it happened
