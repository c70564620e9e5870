"""task=evaluate, task=summary and task=clean on runs that were trained."""

import json
import shutil

import pytest
from PIL import Image
from training_runs import BASELINE, LMCL, epochs, status

EVALUATE = ["task=evaluate", "trainer=cpu", "trainer.threads=1"]


@pytest.mark.parametrize("which", ["lmcl_run", "baseline_run", "alone_run"])
def test_evaluate_is_the_runs_last_epoch(which, call, request):
    folder = request.getfixturevalue(which)
    ended = call(*EVALUATE, f"task.checkpoint={folder}", "task.format=json")
    assert (ended.status, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert (found["dataset"], found["images"]) == ("digits", 360)
    recorded = {name: value for name, value in epochs(folder)[-1]["metrics"].items() if name.startswith("test/")}
    assert recorded == {
        f"test/{peer}/{head}": value for peer, heads in found["top1"].items() for head, value in heads.items()
    }
    for peer, heads in found["top5"].items():
        assert all(found["top1"][peer][head] <= value <= 100 for head, value in heads.items())


def test_evaluate_a_checkpoint_file(call, interrupted_run):
    *_, newest = sorted((interrupted_run / "checkpoints").iterdir())
    by_file = call(*EVALUATE, f"task.checkpoint={newest}")
    by_folder = call(*EVALUATE, f"task.checkpoint={interrupted_run}")
    assert by_file.status == by_folder.status == 0 and by_file.out == by_folder.out
    for word in ("digits, 360 images", "a: resnet8", "b: resnet8", "stage1", "own_head", "ensemble", "top-1", "top-5"):
        assert word in by_file.out


def test_a_run_in_tf32_is_evaluated_without_a_gpu(call, lmcl_run, tmp_path):
    """In float32, which tf32 rounds."""
    shutil.copytree(lmcl_run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    trained = config.read_text().replace("precision: float32", "precision: tf32").replace("device: cpu", "device: cuda")
    config.write_text(trained)
    rounded, whole = (call(*EVALUATE, f"task.checkpoint={folder}") for folder in (tmp_path / "run", lmcl_run))
    assert "precision: tf32" in trained and (rounded.status, rounded.err) == (0, "")
    assert rounded.out == whole.out


def test_evaluate_refuses_other_classes(call, lmcl_run, other_images):
    images = ["data=imagefolder", f"data.root={other_images}"]
    ended = call(*EVALUATE, f"task.checkpoint={lmcl_run}", *images)
    assert (ended.status, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert ended.err.startswith("mcl_lab: error: data: imagefolder does not have the classes of digits")


def test_evaluate_by_the_numbers_of_the_training_images(call, lmcl_run, tmp_path):
    """Other images of the same classes are normalised as those the networks know: a white image is one and the same."""
    for part, grey in (("train", 255), ("test", 255)):
        for name in "0123456789":
            (tmp_path / "digits" / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (grey, grey, grey)).save(tmp_path / "digits" / part / name / "0.png")
    ended = call(
        *EVALUATE, f"task.checkpoint={lmcl_run}", "data=imagefolder", f"data.root={tmp_path / 'digits'}",
        "data.images.size=8", "task.format=json",
    )  # fmt: skip
    assert (ended.status, ended.err) == (0, "")
    found = json.loads(ended.out)
    # Ten equal images of ten classes: one of them is right, and five of them are among five.
    assert {value for heads in found["top1"].values() for value in heads.values()} == {10.0}
    assert {value for heads in found["top5"].values() for value in heads.values()} == {50.0}


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [("nowhere", "there is no nowhere"), (".", "config.yaml"), ("runs", "config.yaml")],
)
def test_evaluate_refuses_what_is_no_run(checkpoint, words, call, tmp_path):
    (tmp_path / "runs").mkdir()
    ended = call(*EVALUATE, f"task.checkpoint={checkpoint}")
    assert (ended.status, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert ended.err.startswith("mcl_lab: error: task.checkpoint: ") and words in ended.err


# C = 100, images of 32 x 32: the published counts
COUNTS = {
    "a": ("resnet32", 3, 64, 472_756, 69_130_496, 1_281_852, 136_776_448, 0, 0),
    "b": ("resnet110", 3, 256, 1_170_868, 167_453_696, 3_181_948, 337_374_208, 0, 0),
}
COLUMNS = (
    "network", "stages", "width", "parameters", "multi_adds", "parameters_with_branches", "multi_adds_with_branches",
    "frozen_parameters", "frozen_parameters_with_branches",
)  # fmt: skip


def test_summary(call, tmp_path):
    ended = call("task=summary", "task.format=json", "pair=resnet32_resnet110")
    assert (ended.status, ended.err) == (0, "")
    assert json.loads(ended.out) == {
        "num_classes": 100,
        "image_size": 32,
        "peers": {key: dict(zip(COLUMNS, counts, strict=True)) for key, counts in COUNTS.items()},
    }
    table = call("task=summary", "pair=resnet32_resnet110")
    assert table.status == 0
    assert all(f"{count:,}" in table.out for counts in COUNTS.values() for count in counts[2:7])
    assert "frozen" not in table.out
    assert not list(tmp_path.iterdir())


def test_clean(call, own_copy, lmcl_run, interrupted_run, baseline_run, tmp_path):
    finished, stopped = own_copy(baseline_run), own_copy(interrupted_run)
    (finished / "checkpoints" / "step-000000003-00000-0123456789abcdef.pt").write_bytes(bytes(2**20))
    (stopped / "checkpoints" / ".step-000000015-00000-0123456789abcdef.pt.tmp").write_bytes(bytes(2**19))
    never = tmp_path / "runs" / "never-trained"
    never.mkdir()
    (never / "config.yaml").write_bytes((stopped / "config.yaml").read_bytes())
    other = tmp_path / "runs" / "notes"
    other.mkdir()
    (other / "plan.txt").write_text("mine")
    before = set((tmp_path / "runs").rglob("*"))
    needless = {
        finished / "checkpoints" / "step-000000003-00000-0123456789abcdef.pt",
        stopped / "checkpoints" / ".step-000000015-00000-0123456789abcdef.pt.tmp",
        never,
    }

    listed = call("task=clean")
    assert (listed.status, listed.err) == (0, "")
    lines = listed.out.splitlines()
    assert {tmp_path / line.split()[-1] for line in lines[:-1]} == needless
    assert "1.5 MB in all; delete them with task.delete=true" in lines[-1]
    assert set((tmp_path / "runs").rglob("*")) == before

    deleted = call("task=clean", "task.delete=true")
    assert deleted.status == 0 and deleted.out.count("deleted") == 3
    assert set((tmp_path / "runs").rglob("*")) == before - needless - {never / "config.yaml"}
    assert call("task=clean").out == "Nothing to clean in runs.\n"

    assert call(*LMCL, "tracking=none").status == 0 and status(stopped) == "finished"  # it still goes on
    assert "This run is finished" in call(*BASELINE, "tracking=none").out


def test_clean_leaves_what_a_run_between_result_and_last_word_needs(call, own_copy, baseline_run):
    """One that was killed after its result and before its last word ends from its checkpoint."""
    folder = own_copy(baseline_run)
    words = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(words | {"state": "running"}))
    checkpoint = folder / "checkpoints" / "step-000000006-00000-0123456789abcdef.pt"
    checkpoint.write_bytes(b"the end")
    assert call("task=clean", "task.delete=true").status == 0
    assert checkpoint.exists()


def test_clean_needs_a_folder(call):
    ended = call("task=clean", "task.runs=nowhere")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "mcl_lab: error: task.runs: there is no folder nowhere\n"
