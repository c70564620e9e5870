"""What a run's folder tells of what it was trained in, whatever becomes of the run."""

import hashlib
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
import torch
from training_runs import BASELINE, RUN, end, only_folder

from mcl_lab.data.datasets import digits
from mcl_lab.runs.code import package_state
from mcl_lab.runs.folders import foreign
from mcl_lab.runs.provenance import trained_in


def record(folder):
    return json.loads((folder / "record.json").read_text())


def checksum(images):
    content = images.images.numpy().tobytes() + images.labels.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def test_a_run_that_was_stopped_tells_what_it_was_trained_in(call, stopping, tmp_path):
    """Against what the packages and PyTorch say themselves, and the images read anew."""
    with stopping(2, signal.SIGTERM):
        assert call(*BASELINE, "tracking=none").status == 128 + signal.SIGTERM
    folder = only_folder(tmp_path)
    (environment,) = record(folder)["environments"]
    for package in ("mcl_lab", "torchvision", "numpy", "pillow"):
        assert environment[package] == version(package)
    assert (environment["torch"], environment["python"]) == (torch.__version__, platform.python_version())
    assert (environment["device_type"], environment["threads"], environment["step"]) == ("cpu", 1, 0)
    assert torch.backends.cpu.get_cpu_capability() in environment["device"] and environment["host"] == platform.node()
    train, test = digits(8)
    assert environment["data"] == {"train": checksum(train), "test": checksum(test)}
    git = ["git", "-C", str(RUN.parent), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    assert environment["git_commit"].removesuffix("+changes") == commit
    tags = record(folder)["tags"]
    assert tags["git_commit"] == environment["git_commit"] and tags["torch"] == environment["torch"]
    assert tags["device"] == environment["device"]
    assert tags["data_checksum"] == f"{checksum(train)} {checksum(test)}"


def test_a_finished_run_tells_it_in_its_result(baseline_run):
    result = json.loads((baseline_run / "result.json").read_text())
    assert [result["environment"]] == record(baseline_run)["environments"] and "earlier_environments" not in result


def in_code(commit, changes=None, **others):
    return {"git_commit": commit * 40, "changes": changes, "device": "x", "torch": "2", "data": {"train": "t"}} | others


def test_what_other_code_goes_on_with_names_both():
    begun = None
    new = {"run_key": "0", "tags": {"pair": "resnet8"}}
    for step, commit, named in (
        (0, "a", "a"),
        (5, "b", "a then b"),
        (9, "b", "a then b"),
        (12, "a", "a then b then a"),
    ):
        begun = trained_in(begun or new, begun, in_code(commit), step)
        assert begun["tags"]["git_commit"] == " then ".join(letter * 40 for letter in named.split(" then "))
        assert (begun["run_key"], begun["tags"]["pair"], begun["tags"]["torch"]) == ("0", "resnet8", "2")
    assert [there["step"] for there in begun["environments"]] == [0, 5, 12]


def test_what_was_lost_with_its_process_is_no_part_of_the_run():
    new = {"tags": {}}
    begun = trained_in(new, None, in_code("a"), 0)
    begun = trained_in(new, begun, in_code("b"), 5)
    back = trained_in(new, begun, in_code("a"), 5)  # the other came to no checkpoint
    assert back["tags"]["git_commit"] == "a" * 40 and len(back["environments"]) == 1
    over = trained_in(new, begun, in_code("c"), 0)
    assert over["tags"]["git_commit"] == "c" * 40


def test_changes_of_one_commit_are_told_apart():
    new = {"tags": {}}
    begun = trained_in(new, None, in_code("a", "1"), 0)
    tags = trained_in(new, begun, in_code("a", "2"), 5)["tags"]
    assert (tags["git_commit"], tags["torch"]) == (f"{'a' * 40} then {'a' * 40}", "2")


@pytest.mark.parametrize(
    "damage", [{}, {"environments": []}, {"environments": 1}, {"environments": [{"step": "x"}, 2]}]
)
def test_a_record_of_older_code_or_damaged_goes_on(damage):
    old = {"tags": {"git_commit": "a" * 40}} | damage
    now = trained_in(old, old, in_code("b"), 7)
    assert now["tags"]["git_commit"] == f"{'a' * 40} then {'b' * 40}"


def test_code_of_plugins(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nets.py").write_text("x = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = package_state("mine.nets")
    assert before.startswith("sha256 ") and package_state("mine") == before
    (tmp_path / "mine" / "nets.py").write_text("x = 2")
    assert package_state("mine") not in (before, "missing")
    assert package_state("yaml") == version("PyYAML")
    assert package_state("there_is_no_such_package") == "missing"


@pytest.fixture
def house(tmp_path):
    """The code, in a git checkout of its own."""
    house = tmp_path / "house"
    for part in ("run.py", "conf", "mcl_lab", "sweeps"):
        source = RUN.parent / part
        if source.is_dir():
            shutil.copytree(source, house / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            house.mkdir()
            shutil.copy(source, house / part)
    (house / ".gitignore").write_text("__pycache__/\n")
    git(house, "init", "-q")
    git(house, "add", ".")
    git(house, "commit", "-qm", "first")
    return house


def git(house, *words):
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(house), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.full
def test_a_run_that_goes_on_by_changed_code(house, tmp_path):
    """Each stretch's code can be had again: by its commit and the file of its changes, in which no password is."""
    arguments = [*BASELINE, "trainer.epochs=60", "tracking=none", "trainer.checkpoint_steps=1"]

    def train(*more):
        command = [sys.executable, str(house / "run.py"), *arguments, *more]
        return subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def stop_after_a_checkpoint(process, beyond):
        while not any(path.name > beyond for path in tmp_path.glob("runs/*/checkpoints/step-*.pt")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert end(process).status == 128 + signal.SIGTERM

    def newest():
        return max(path.name for path in tmp_path.glob("runs/*/checkpoints/step-*.pt"))

    def code():
        return {
            str(path.relative_to(house)): path.read_bytes()
            for path in house.rglob("*")
            if path.is_file() and not {".git", "__pycache__"} & set(path.parts)
        }

    commit, states = git(house, "rev-parse", "HEAD"), []
    (house / "mcl_lab" / "errors.py").open("a").write("\n# first change\n")
    states.append(code())
    stop_after_a_checkpoint(train(), "")
    folder = only_folder(tmp_path)
    first = (folder / "changes.diff").read_bytes()
    (house / "conf" / "loss" / "mine.yaml").write_text("uri: http://me:hunter2@host\n")  # a new file, and a secret
    git(house, "config", "diff.noprefix", "true")
    git(house, "config", "color.diff", "always")
    states.append(code())
    stop_after_a_checkpoint(train(), newest())

    record_now = record(folder)
    begun, later = record_now["environments"]
    assert begun["git_commit"] == later["git_commit"] == f"{commit}+changes" and begun["changes"] != later["changes"]
    assert later["step"] > 0 and record_now["tags"]["git_commit"] == f"{commit}+changes then {commit}+changes"
    assert (folder / "changes.diff").read_bytes() == first
    second = folder / f"changes-{later['changes'][:8]}.diff"
    assert "hunter2" not in second.read_text()
    for diff, wanted in ((folder / "changes.diff", states[0]), (second, states[1])):
        git(house, "stash", "-qu")
        git(house, "apply", str(diff))
        found = code()
        without = {"conf/loss/mine.yaml"}  # where the password was taken out
        assert {name: found[name] for name in found if name not in without} == {
            name: wanted[name] for name in wanted if name not in without
        }
        assert found.keys() == wanted.keys()
        git(house, "stash", "-qu")
    assert foreign(folder) == []
