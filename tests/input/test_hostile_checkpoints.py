"""Checkpoint files that somebody else made, each with the right checksum in its name: no code in them runs, none fills memory,
and what cannot be used is said in one line."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from training_runs import RUN

import mcl_lab
from mcl_lab import cli
from mcl_lab.assembly.learners import build_learners
from mcl_lab.config.compose import compose
from mcl_lab.config.identity import identity_of
from mcl_lab.config.stored import to_yaml

WORDS = ["data=digits", "data.images.size=8", "pair=resnet8", "pair.peers.a.widths=[4,8,8]", "pair.peers.b.widths=[4,8,8]",
         "loss=baseline", "data.batch_size=512", "trainer=cpu", "trainer.epochs=2", "tracking=none",
         "hydra.run.dir=theirs"]  # fmt: skip
EVALUATE = ["task=evaluate", "task.checkpoint=theirs", "trainer=cpu"]


class Program:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def saved(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def archive(pickled: bytes) -> bytes:
    """As torch.save writes them, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("archive/data.pkl", pickled)
        made.writestr("archive/byteorder", "little")
        made.writestr("archive/data/0", bytes(4))
        made.writestr("archive/version", "3\n")
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    return buffer.getvalue()


def bomb(size: int) -> bytes:
    """A tensor of so many zeros, in a thousandth of that."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"format": 1, "x": torch.zeros(size, dtype=torch.uint8)}))) as whole,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made,
    ):
        for part in whole.infolist():
            made.writestr(part.filename, whole.read(part))
    return packed.getvalue()


NO_CHECKPOINTS = {
    "nothing": lambda: b"",
    "garbage": lambda: bytes(range(256)) * 40,
    "text": lambda: b"weights",
    "pickle": lambda: pickle.dumps(Program()),
    "pickle in an archive": lambda: archive(pickle.dumps(Program(), protocol=2)),
    "pickle in the facts": lambda: saved({"format": 1, "data": Program(), "parts": {}}),
    "pickle of before archives": lambda: saved({"format": 1, "data": Program()}, _use_new_zipfile_serialization=False),
    "TorchScript": scripted,
    "module": lambda: saved(torch.nn.Linear(1, 1)),
    "zip": lambda: archive(b""),
    "bomb": lambda: bomb(10**7),
    "list": lambda: saved([1]),
    "tensor": lambda: saved(torch.ones(2)),
    "weights alone": lambda: saved({"layer.weight": torch.ones(2)}),
    "format of text": lambda: saved({"format": "1", "data": {}, "parts": {}}),
    "format of nothing": lambda: saved({"format": None}),
    "lists in lists": lambda: archive(b"\x80\x02" + 10**5 * b"]" + (10**5 - 1) * b"a" + b"."),
}


def put(folder: Path, name: str, content: bytes) -> None:
    for old in (folder / "checkpoints").iterdir():
        old.unlink()
    checksum = hashlib.sha256(content).hexdigest()[:16]
    (folder / "checkpoints" / f"{name}-{checksum}.pt").write_bytes(content)


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A run folder of theirs in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(RUN)])
    Path("theirs/checkpoints").mkdir(parents=True)
    Path("theirs/config.yaml").write_text(to_yaml(compose(WORDS), clean=str))
    return Path("theirs")


@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_refused(kind, theirs, capsys):
    put(theirs, "networks", NO_CHECKPOINTS[kind]())
    before = sorted(Path().rglob("*"))
    assert cli.main(EVALUATE) == 2
    error = capsys.readouterr().err
    assert error.startswith("mcl_lab: error: task.checkpoint: ") and error.count("\n") == 1
    assert "is not a checkpoint of mcl_lab" in error
    assert sorted(Path().rglob("*")) == before


@pytest.mark.full
def test_a_bomb_takes_no_memory(theirs):
    def peak() -> int:
        """Of task=evaluate, in bytes. A process between: what is started counts from the size of what starts it."""
        code = (
            "import resource, subprocess, sys; status = subprocess.call(sys.argv[1:], stderr=subprocess.DEVNULL)\n"
            "print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        command = [sys.executable, "-c", code, sys.executable, str(RUN), *EVALUATE]
        status, kilobytes = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout.split()
        assert status == "2"
        return 1024 * int(kilobytes)

    put(theirs, "networks", b"garbage")
    without = peak()
    put(theirs, "networks", bomb(3 * 10**8))
    assert peak() - without < 10**8


@pytest.fixture(scope="module")
def whole():
    """A state that task=evaluate takes."""
    config = compose(WORDS)
    learners = build_learners(config, 10, torch.device("cpu"), (8, 8))
    facts = {"classes": tuple("0123456789"), "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "checksum": "0" * 16}
    parts = {"cohort": learners.cohort.state_dict(), "objective": learners.objective.state_dict()}
    return {"format": 1, "run_key": identity_of(config).run_key, "data": facts, "parts": parts}


def with_facts(**facts):
    return lambda whole: whole | {"data": whole["data"] | facts}


def with_parts(**parts):
    return lambda whole: whole | {"parts": whole["parts"] | parts}


UNFIT = {
    "no facts": lambda whole: {name: value for name, value in whole.items() if name != "data"},
    "facts of text": lambda whole: whole | {"data": "x"},
    "facts of nothing": lambda whole: whole | {"data": None},
    "facts in a list": lambda whole: whole | {"data": [1]},
    "a fact more": with_facts(extra=1),
    "classes of text": with_facts(classes="x"),
    "classes of numbers": with_facts(classes=(1, 2)),
    "a number of classes": with_facts(classes=10),
    "no classes": with_facts(classes=()),
    "mean of nothing": with_facts(mean=None),
    "mean of text": with_facts(mean="abc"),
    "mean of two": with_facts(mean=(0.5, 0.5)),
    "mean of NaN": with_facts(mean=(0.5, float("nan"), 0.5)),
    "std of zeros": with_facts(std=(0.0, 0.0, 0.0)),
    "std of lists": with_facts(std=([], [], [])),
    "a number for a checksum": with_facts(checksum=3),
    "no parts": lambda whole: {name: value for name, value in whole.items() if name != "parts"},
    "parts of text": lambda whole: whole | {"parts": "x"},
    "parts of nothing": lambda whole: whole | {"parts": None},
    "no objective": lambda whole: whole | {"parts": {"cohort": whole["parts"]["cohort"]}},
    "cohort of text": with_parts(cohort="x"),
    "cohort of numbers": with_parts(cohort={"x": 1}),
    "other keys": with_parts(cohort={"layer.weight": torch.ones(2)}),
    "other sizes": lambda whole: with_parts(cohort={name: torch.ones(3) for name in whole["parts"]["cohort"]})(whole),
    "huge sizes": lambda whole: with_parts(
        cohort={name: torch.zeros(1).expand(10**12) for name in whole["parts"]["cohort"]}
    )(whole),
}  # fmt: skip


@pytest.mark.full
def test_the_whole_state_is_taken(theirs, whole, capsys):
    put(theirs, "networks", saved(whole))
    assert cli.main([*EVALUATE, "task.format=json"]) == 0
    assert '"images": 360' in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.parametrize("kind", UNFIT)
def test_what_does_not_fit_is_refused(kind, theirs, whole, capsys):
    put(theirs, "networks", saved(UNFIT[kind](whole)))
    assert cli.main(EVALUATE) == 2
    error = capsys.readouterr().err
    assert error.startswith(("mcl_lab: error: task.checkpoint: ", "mcl_lab: error: data: ")), error
    assert error.count("\n") == 1 and len(error) < 2100


@pytest.mark.full
@pytest.mark.parametrize("kind", [*NO_CHECKPOINTS, *(kind for kind in UNFIT if kind != "no objective")])
def test_nobody_loads_it(kind, theirs, whole):
    """But for a state without an objective, which has no part in a network by itself."""
    put(theirs, "networks", NO_CHECKPOINTS[kind]() if kind in NO_CHECKPOINTS else saved(UNFIT[kind](whole)))
    (checkpoint,) = (theirs / "checkpoints").iterdir()
    for path in (theirs, checkpoint):
        with pytest.raises(ValueError) as raised:
            mcl_lab.load(path, peer="a")
        assert str(raised.value).isprintable() and not Path("hacked").exists()


@pytest.mark.full
@pytest.mark.parametrize("kind", [*NO_CHECKPOINTS, *UNFIT])
def test_nobody_goes_on_from_it(kind, theirs, whole, capsys):
    """One line, nothing deleted, and the run may be started over."""
    content = NO_CHECKPOINTS[kind]() if kind in NO_CHECKPOINTS else saved(UNFIT[kind](whole))
    put(theirs, "step-000000003-00001", content)
    (before,) = (theirs / "checkpoints").iterdir()
    assert cli.main(WORDS) in (1, 2)
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("mcl_lab: error: ") and all("Traceback" not in line for line in error)
    assert list((theirs / "checkpoints").iterdir()) == [before] and not Path("hacked").exists()
    assert not (theirs / "result.json").exists()
