"""The same key, device, threads and versions give the same weights; task=reproduce shows it of a run, or what differs."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_runs import (
    BASELINE,
    RUN,
    SMALL,
    assert_same_run,
    contents,
    fork,
    main_in,
    networks,
    only_folder,
    result,
    status,
    stop_itself,
)  # fmt: skip

from mcl_lab.runs.checkpoints import Checkpoints, checksum_of_weights, read
from mcl_lab.tracking.mlflow.store import deliver

LOSSES = sorted(path.stem for path in (RUN.parent / "conf/loss").glob("*.yaml"))
QUIET = ["trainer.max_steps=3", "tracking=none"]
REPRODUCE = ["task=reproduce", "tracking=none"]
TO_THE_BIT = "reproduced to the bit"


def stopped_in(cwd, arguments) -> None:
    """As `main_in`, stopped in step 2."""
    stop_itself(pytest.MonkeyPatch(), 2, signal.SIGTERM)
    main_in(cwd, arguments)


@pytest.mark.parametrize(
    "loss", [pytest.param(loss, marks=[] if loss == "lmcl" else pytest.mark.full) for loss in LOSSES]
)
def test_every_loss_gives_the_same_weights_again(loss, tmp_path):
    """In fresh processes, at once and stopped in between."""
    arguments = [*SMALL, f"loss={loss}", *QUIET]
    places = [tmp_path / name for name in ("once", "stopped")]
    for place in places:
        place.mkdir()
    assert fork(main_in, places[0], arguments) == 0
    assert fork(stopped_in, places[1], arguments) == 128 + signal.SIGTERM
    assert fork(main_in, places[1], arguments) == 0
    once, stopped = map(only_folder, places)
    assert_same_run(once, stopped)
    (file,) = (once / "checkpoints").iterdir()
    assert result(once)["weights"] == result(stopped)["weights"] == checksum_of_weights(read(file)["parts"])


def test_the_checksum_of_weights_tells_every_change():
    def checksum(name="w", part="cohort", values=(1.0, 2.0, 3.0, 4.0), shape=(2, 2), dtype=torch.float32):
        return checksum_of_weights(
            {part: {name: torch.tensor(values, dtype=dtype).reshape(shape), "n": torch.tensor(1)}}
        )

    changed = [
        checksum(), checksum(name="v"), checksum(part="objective"), checksum(values=(1.0, 2.0, 3.0, 4.0000005)),
        checksum(shape=(4,)), checksum(dtype=torch.bfloat16), checksum(values=(1.0, 2.0, 4.0, 3.0)),
    ]  # fmt: skip
    assert len(set(changed)) == len(changed) and checksum() == changed[0]
    kept = {"w": torch.arange(24.0).reshape(2, 3, 2, 2), "v": torch.ones(1)}
    turned = {"v": kept["v"], "w": kept["w"].to(memory_format=torch.channels_last)}
    assert checksum_of_weights({"a": kept}) == checksum_of_weights({"a": turned})  # the same numbers


def reproduced(call, run, *more) -> tuple[int, dict]:
    ended = call(*REPRODUCE, f"task.run={run}", "task.format=json", *more)
    return ended.status, json.loads(ended.out)


def reproductions(tmp_path) -> list[Path]:
    return sorted((tmp_path / "runs" / "reproduced").iterdir())


def test_an_undisturbed_run(call, own_copy, baseline_run, tmp_path):
    folder = own_copy(baseline_run)
    before = contents(folder)
    first = call(*REPRODUCE, f"task.run=runs/{folder.name}")
    assert (first.status, first.err) == (0, "")
    assert "epoch     loss" in first.out and first.out.splitlines()[-1].split(maxsplit=1) == ["verdict", TO_THE_BIT]
    assert f"equal to the bit ({len(networks(folder))} tensors)" in first.out
    assert "all metrics of 2 epochs are equal" in first.out
    (again,) = reproductions(tmp_path)
    assert_same_run(again, folder)
    trained = contents(again)
    second = call(*REPRODUCE, f"task.run={folder.name}")  # its name will do; and it is not trained a third time
    assert second.status == 0 and "epoch     loss" not in second.out and TO_THE_BIT in second.out
    assert contents(folder) == before and contents(again) == trained
    report = call("task=report", "task.source=folders")
    assert report.err == "mcl_lab: 1 runs read from the run folders in runs\n"
    itself = call(*REPRODUCE, f"task.run={again}")
    assert (itself.status, itself.out) == (2, "") and "is a reproduction itself" in itself.err


@pytest.mark.full
def test_a_run_that_was_interrupted(call, own_copy, interrupted_run):
    folder = own_copy(interrupted_run)
    unfinished = call(*REPRODUCE, f"task.run={folder}")
    assert (unfinished.status, unfinished.out) == (2, "") and unfinished.err.count("\n") == 1
    assert "is not finished (interrupted: " in unfinished.err and f"resume={folder}" in unfinished.err
    assert call(f"resume={folder}").status == 0
    code, told = reproduced(call, folder)
    assert (code, told["verdict"], told["differs"]) == (0, TO_THE_BIT, {})
    assert told["tensors"] > 0 and told["different_tensors"] == 0 and told["epochs"] == 2


def test_a_reproduction_that_is_interrupted_goes_on(call, own_copy, baseline_run, stopping, tmp_path):
    folder = own_copy(baseline_run)
    with stopping(5, signal.SIGTERM):
        assert call(*REPRODUCE, f"task.run={folder}").status == 128 + signal.SIGTERM
    (again,) = reproductions(tmp_path)
    assert status(again) == "interrupted"
    assert reproduced(call, folder)[1]["verdict"] == TO_THE_BIT
    assert reproductions(tmp_path) == [again] and "going on at epoch 2, step 5" in (again / "run.log").read_text()


def test_a_mixed_pair_in_bfloat16(call, undisturbed):
    folder = undisturbed(*SMALL, "pair.peers.b.widths=[4,8,6]", "trainer.precision=bf16", *QUIET)
    code, told = reproduced(call, folder)
    assert (code, told["verdict"]) == (0, TO_THE_BIT)


def test_device_and_threads_are_those_of_the_run(call, own_copy, baseline_run, tmp_path):
    """Whatever the config leaves to the machine; and the command line has the last word."""
    folder = own_copy(baseline_run)
    config = (folder / "config.yaml").read_text()
    assert config.count("  threads: 1\n") == 1
    (folder / "config.yaml").write_text(config.replace("  threads: 1\n", "  threads: null\n"))
    edit(folder, lambda told: told["environment"].update(threads=2))
    _, told = reproduced(call, folder)
    assert "threads" not in told["differs"]
    _, told = reproduced(call, folder, "trainer.threads=1")
    assert told["differs"]["threads"] == [2, 1] and len(reproductions(tmp_path)) == 2
    edit(folder, lambda told: told["environment"].update(device_type="cuda"))
    if not torch.cuda.is_available():
        ended = call(*REPRODUCE, f"task.run={folder}")
        assert (ended.status, ended.out) == (2, "") and "trainer.device: cuda is not there" in ended.err
    _, told = reproduced(call, folder, "trainer.device=cpu")
    assert told["differs"]["device_type"] == ["cuda", "cpu"]


def edit(folder, change) -> None:
    told = result(folder)
    change(told)
    (folder / "result.json").write_text(json.dumps(told))


def test_what_differs_is_told(call, own_copy, baseline_run, tmp_path):
    folder = own_copy(baseline_run)

    def other_code(told):
        told["environment"] |= {
            "git_commit": "c0ffee" * 6 + "abcd+changes",
            "changes": "0123456789abcdef",
            "torch": "1.0",
        }

    edit(folder, other_code)
    ended = call(*REPRODUCE, f"task.run={folder}")
    assert ended.status == 0 and TO_THE_BIT in ended.out
    assert "commit: " + "c0ffee" * 6 + "abcd+changes -> " in ended.out
    assert f"torch: 1.0 -> {torch.__version__}" in ended.out
    assert "git checkout " + "c0ffee" * 6 + "abcd\n" in ended.out
    assert f"git apply {folder}/changes.diff" in ended.out


def test_a_changed_bit_in_the_networks_is_told(call, own_copy, baseline_run):
    folder = own_copy(baseline_run)
    (path,) = (folder / "checkpoints").iterdir()
    state = read(path)
    value = next(value for value in state["parts"]["cohort"].values() if value.is_floating_point())
    value.view(torch.int32)[(0,) * value.ndim] ^= 1
    path.unlink()
    kept = {part: state["parts"][part] for part in ("cohort", "objective")}
    Checkpoints(
        folder / "checkpoints", lambda path, content: path.write_bytes(content), run_key=state["run_key"],
        facts={"data": state["data"]},
    ).finish({"parts": kept})  # fmt: skip
    code, told = reproduced(call, folder)
    assert (code, told["verdict"]) == (0, "same final metrics within 0 percentage points")
    assert (told["weights"], told["different_tensors"]) == (False, 1) and 0 < told["largest_weight_difference"] < 1e-6


def test_a_damaged_networks_file_is_told_and_the_checksum_compared(call, own_copy, baseline_run):
    folder = own_copy(baseline_run)
    (path,) = (folder / "checkpoints").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, told = reproduced(call, folder)
    assert (code, told["verdict"], told["tensors"]) == (0, TO_THE_BIT, 0) and "is damaged" in told["notes"][0]
    edit(folder, lambda told: told.update(weights="0" * 64))
    code, told = reproduced(call, folder)
    assert (told["weights"], told["verdict"]) == (False, "same final metrics within 0 percentage points")
    path.unlink()
    edit(folder, lambda told: told.pop("weights"))
    code, told = reproduced(call, folder)
    assert (told["weights"], told["verdict"]) == (None, "same final metrics within 0 percentage points")


def test_other_figures_fail_beyond_the_tolerance(call, own_copy, baseline_run):
    folder = own_copy(baseline_run)
    edit(
        folder,
        lambda told: told["final"].update(
            {"final/a/own_head_last_epoch": told["final"]["final/a/own_head_last_epoch"] - 0.25}
        ),
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    before = lines[1]["metrics"]["train/loss"]
    lines[1]["metrics"]["train/loss"] += 0.5
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ended = call(*REPRODUCE, f"task.run={folder}", "task.tolerance=0.2")
    assert ended.status == 1 and ended.err == (
        f"mcl_lab: error: {folder.name} is not reproduced: differs: final metrics by up to 0.25 percentage points, "
        "task.tolerance is 0.2\n"
    )
    assert f"the first to differ is epoch 2, train/loss: {before + 0.5} -> {before}" in ended.out
    code, told = reproduced(call, folder, "task.tolerance=0.3")
    assert (code, told["verdict"]) == (0, "same final metrics within 0.25 percentage points")
    assert told["weights"] is True and told["first"][:2] == told["largest"][:2] == [2, "train/loss"]
    edit(folder, lambda told: told["final"].pop("final/b/own_head_last_epoch"))
    code, told = reproduced(call, folder, "task.tolerance=100")
    assert (code, told["reproduced"], told["largest_final_difference"]) == (1, False, None)


def test_a_damaged_journal_is_told(call, own_copy, baseline_run):
    folder = own_copy(baseline_run)
    first, second = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text(first + second[: len(second) // 2] + "\n")
    code, told = reproduced(call, folder)
    assert (code, told["weights"], told["verdict"]) == (0, True, "same final metrics within 0 percentage points")
    assert told["notes"] == [f"damaged in {folder}: metrics.jsonl, line 2"] and told["first"][0] == 2


@pytest.mark.parametrize("part", ["train", "test"])
def test_other_images_are_refused_before_anything_is_trained(part, call, tmp_path):
    for name, shade in (("cat", 10), ("dog", 90)):
        for where, count in (("train", 8), ("test", 2)):
            place = tmp_path / "images" / where / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (shade + number, shade, number)).save(place / f"{number}.png")
    words = [word for word in BASELINE if not word.startswith("data.")]
    words += ["data=imagefolder", "data.images.size=8", "data.batch_size=8", "data.root=images", "tracking=none"]
    assert call(*words).status == 0
    folder = only_folder(tmp_path)
    shutil.copytree(tmp_path / "images", tmp_path / "same")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "images" / part / "cat" / "0.png")
    refused = call(*REPRODUCE, f"task.run={folder}")
    assert (refused.status, refused.out) == (2, "") and refused.err.count("\n") == 1
    assert refused.err.startswith(f"mcl_lab: error: data: the {part} images are not those of {folder.name} (checksum ")
    assert not (tmp_path / "runs" / "reproduced").exists()
    assert reproduced(call, folder, "data.root=same")[1]["verdict"] == TO_THE_BIT
    refused = call(*REPRODUCE, f"task.run={folder}", "seed=1")
    assert (refused.status, refused.out) == (2, "") and "seed: 0 -> 1" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.run=nowhere"], "task.run: there is no folder nowhere, and tracking=none leaves MLflow out"),
        pytest.param(
            ["task.run=nowhere", "tracking=mlflow"],
            "task.run: there is no folder nowhere, and there is no file ",
            marks=pytest.mark.full,
        ),
        (["task.run=empty"], "task.run: empty has no config.yaml"),
        (["task.run=''"], "task.run: "),
        ([], "task.run: needs a value"),
        (["task.run=empty", "task.tolerance=-1"], "task.tolerance: must be a number >= 0"),
        (["task.run=empty", "resume=empty"], "resume: "),
    ],
)
def test_what_is_no_run_is_refused(words, message, call, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = call(*REPRODUCE, *words)
    assert (ended.status, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert ended.err.startswith(f"mcl_lab: error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"environment": 1}', '{"environment": {}, "earlier_environments": 1}']
)
def test_a_damaged_result_is_refused(content, call, own_copy, baseline_run, tmp_path):
    folder = own_copy(baseline_run)
    (folder / "result.json").write_text(content)
    ended = call(*REPRODUCE, f"task.run={folder}")
    assert (ended.status, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert not (tmp_path / "runs" / "reproduced").exists()


@pytest.fixture
def delivered(own_copy, baseline_run, store, tmp_path):
    """A run in the store of tracking's default URI: (MLflow's id, its folder)."""
    folder = own_copy(baseline_run)
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"uri": f"sqlite:///{store.file}"}))
    (folder / "changes.diff").write_text("the changes")
    assert deliver(folder)
    return json.loads((folder / "delivery.json").read_text())["mlflow_run"], folder


def test_a_run_in_mlflow_whose_folder_is_gone(call, delivered, store, tmp_path):
    run, folder = delivered
    assert [path.read_text() for path in tmp_path.glob("mlartifacts/**/changes.diff")] == ["the changes"]
    shutil.rmtree(folder)
    ended = call("task=reproduce", f"task.run={run}")
    assert (ended.status, ended.err) == (0, "")
    assert f"verdict        {TO_THE_BIT}" in ended.out and "equal to the bit (by their checksum)" in ended.out
    assert "all metrics of 2 epochs are equal" in ended.out
    (again,) = reproductions(tmp_path)
    # It is recorded, and not taken for another seed, or another try, of the run.
    assert sorted(store.runs()) == sorted([("FINISHED", folder.name), ("FINISHED", again.name)])
    report = call("task=report")
    assert report.err.startswith("mcl_lab: 1 runs read from experiment 'mcl_lab'")


@pytest.mark.full
def test_the_nearest_name_in_mlflow_is_told(call, delivered):
    _, folder = delivered
    wrong = call("task=reproduce", f"task.run={folder.name[:-1]}")
    assert (wrong.status, wrong.out) == (2, "") and f"did you mean {folder.name}?" in wrong.err
    shutil.rmtree(folder)
    by_name = call("task=reproduce", f"task.run={folder.name}")
    assert by_name.status == 0 and TO_THE_BIT in by_name.out


@pytest.mark.full
def test_what_is_not_finished_in_mlflow_is_refused(call, delivered, tmp_path):
    run, folder = delivered
    status_now = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(
        json.dumps(status_now | {"state": "failed", "message": "the roof", "started_ms": 1})
    )
    assert deliver(folder)
    shutil.rmtree(folder)
    ended = call("task=reproduce", f"task.run={run}")
    assert (ended.status, ended.out) == (2, "") and "is not finished (failed: the roof)" in ended.err


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("_target_: mcl_lab.networks.resnet.ResNet", "_target_: os.system", "pair.peers.a._target_"),
        pytest.param("seed: 0", "seed: ${oc.env:HOME}", "seed", marks=pytest.mark.full),
        pytest.param("seed: 0", "seed: [", "cannot be read", marks=pytest.mark.full),
    ],
)
def test_a_hostile_config_in_mlflow_is_refused(old, new, named, call, delivered, tmp_path):
    run, folder = delivered
    shutil.rmtree(folder)
    (config,) = tmp_path.glob("mlartifacts/**/config.yaml")
    config.write_text(config.read_text().replace(old, new))
    ended = call("task=reproduce", f"task.run={run}")
    assert (ended.status, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert ended.err.startswith("mcl_lab: error: task.run: ") and named in ended.err
    assert not list((tmp_path / "runs").iterdir())
