"""What can be trained: cohorts, losses, optimizers, schedules, data sets, presets."""

import json
import math

import pytest
from PIL import Image
from training_runs import ALONE, BASELINE, SMALL, epochs, networks, only_folder, result

TWO_STEPS = ["trainer.max_steps=2", "tracking=none"]


def of_peer(folder, peer):
    return {name: value for name, value in networks(folder).items() if f"peers.{peer}." in name}


def heads(folder, peer):
    return {name.rsplit("/")[-1] for name in epochs(folder)[-1]["metrics"] if name.startswith(f"test/{peer}/")}


def test_one_network_alone(alone_run):
    outcome = result(alone_run)
    assert (outcome["pair"], outcome["kind"], outcome["loss"]) == ("single-resnet8", "single", "baseline")
    assert list(outcome["peers"]) == ["a"] and heads(alone_run, "a") == {"own_head"}
    assert set(epochs(alone_run)[0]["metrics"]) == {
        "train/loss", "train/classification", "train/a/own_head", "train/learning_rate", "test/a/own_head",
    }  # fmt: skip


def test_peers_of_a_baseline_do_not_know_each_other(alone_run, baseline_run):
    """The first peer, initialised first and seeing the same batches, comes to the bits it has alone."""
    together, alone = of_peer(baseline_run, "a"), of_peer(alone_run, "a")
    assert together.keys() == alone.keys() and all((together[name] == alone[name]).all() for name in alone)
    mine = [epoch["metrics"]["test/a/own_head"] for epoch in epochs(alone_run)]
    assert mine == [epoch["metrics"]["test/a/own_head"] for epoch in epochs(baseline_run)]
    other = of_peer(baseline_run, "b")
    assert any((value != other[name.replace("peers.a.", "peers.b.")]).any() for name, value in together.items())


def test_a_pair_by_lmcl(lmcl_run):
    terms = {"classification", "ensemble_classification", "logit_distillation", "vcl", "soft_vcl", "icl", "soft_icl"}
    for epoch in epochs(lmcl_run):
        metrics = epoch["metrics"]
        assert metrics["train/loss"] == pytest.approx(sum(metrics[f"train/{term}"] for term in terms))
    assert heads(lmcl_run, "b") == {"stage1", "stage2", "own_head", "ensemble"}
    assert set(result(lmcl_run)["peers"]["b"]) >= {
        "own_head_last_epoch", "own_head_best_epoch", "best_of_all_heads_and_epochs", "ensemble_last_epoch",
    }  # fmt: skip


def test_three_peers_of_two_kinds(call, tmp_path):
    ended = call(*SMALL, "+network@pair.peers.c=resnet20", "pair.peers.c.widths=[4,4,4]", *TWO_STEPS)
    assert (ended.status, ended.err) == (0, "")
    folder = only_folder(tmp_path)
    assert list(result(folder)["peers"]) == ["a", "b", "c"] and result(folder)["kind"] == "heterogeneous"
    assert result(folder)["steps"] == 2 and heads(folder, "c") == {"stage1", "stage2", "own_head", "ensemble"}


def test_adamw_multistep_warmup_and_validation(call, tmp_path):
    ended = call(
        *BASELINE, "optimizer=adamw", "schedule=multistep", "schedule.milestones=[2,3]", "schedule.warmup_epochs=1",
        "data.validation=0.2", "trainer.epochs=4", "tracking=none",
    )  # fmt: skip
    assert (ended.status, ended.err) == (0, "")
    folder = only_folder(tmp_path)
    rates = [epoch["metrics"]["train/learning_rate"] for epoch in epochs(folder)]
    assert rates == pytest.approx([0.0005, 0.001, 0.0001, 0.00001])
    for peer in "ab":
        validation, test = (
            [epoch["metrics"][f"{name}/{peer}/own_head"] for epoch in epochs(folder)] for name in ("validation", "test")
        )
        best = validation.index(max(validation))
        figures = result(folder)["peers"][peer]
        assert (figures["best_epoch"], figures["own_head_best_epoch"]) == (best + 1, test[best])
    # 1,437 training images, a fifth of each class held out: 3 batches of 512 have become 2 and a rest
    assert result(folder)["steps"] == 4 * math.ceil(1150 / 512)


def test_a_folder_of_images(call, tmp_path):
    """Two classes that differ in brightness are told apart."""
    for part, count in (("train", 40), ("val", 10)):
        for name, grey in (("dark", 30), ("light", 200)):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (12, 9), (grey + number, grey, grey)).save(folder / f"{number}.png")
    ended = call(
        *[word for word in ALONE if not word.startswith("data.")], "data=imagefolder", "data.root=images",
        "data.images.size=8", "data.batch_size=16", "trainer.epochs=6", "tracking=none",
    )  # fmt: skip
    assert (ended.status, ended.err) == (0, "")
    assert result(only_folder(tmp_path))["peers"]["a"]["own_head_last_epoch"] == 100


def test_without_meta_events_and_without_weights(call, tmp_path):
    nodes = ("meta_event=null", "weight_network=null", "mutual_contrastive=null", "aggregator.weight=0")
    for change in [f"loss.{node}" for node in nodes]:
        ended = call(*SMALL, *TWO_STEPS, change)
        assert (ended.status, ended.err) == (0, ""), change
    assert len(list((tmp_path / "runs").iterdir())) == 4


DEBUG = ["data=digits", "data.batch_size=64", "trainer=debug", "trainer.threads=1", "tracking=none"]


def test_debug_preset(call, tmp_path):
    ended = call(*DEBUG, "pair=resnet8")
    assert (ended.status, ended.err) == (0, "")
    folder = only_folder(tmp_path)
    assert result(folder)["steps"] == 3
    record = json.loads((folder / "metrics.jsonl").read_text())
    assert record["step"] == 3 and record["metrics"]["train/loss"] > 0
    assert [path.name.partition("-")[0] for path in (folder / "checkpoints").iterdir()] == ["networks"]
