"""task=benchmark: its figures fit together, and with what task=summary counts by itself."""

import json

import pytest
from training_runs import SMALL

PARTS = ("data", "forward", "loss", "backward", "optimizer")
BENCHMARK = ["task=benchmark", *SMALL, "task.repeats=1", "task.events=1", "task.warmup=1"]
BENCHMARK += ["task.images=1000", "task.test_images=300", "task.num_classes=10", "task.image_size=8"]


@pytest.fixture
def measured(call, tmp_path):
    def measure(*words):
        ended = call(*BENCHMARK, *words, "task.format=json")
        assert (ended.status, ended.err) == (0, "")
        assert not list(tmp_path.iterdir())  # it is no run
        return json.loads(ended.out)

    return measure


def test_figures_fit_together(measured):
    cost = measured("loss.meta_event.every=8")
    seconds = cost["seconds"]
    assert all(value > 0 for value in seconds.values())
    assert seconds["step"] == pytest.approx(sum(seconds[part] for part in PARTS))
    assert (cost["steps_an_epoch"], cost["events_an_epoch"], cost["epochs"]) == (15, 2, 2)
    epoch = 15 * seconds["step"] + 2 * seconds["meta_event"] + seconds["evaluation"]
    assert seconds["epoch"] == pytest.approx(epoch) and seconds["schedule"] == pytest.approx(2 * epoch)
    assert cost["images_per_second"] == pytest.approx(64 / seconds["step"])
    assert seconds["meta_event"] > 3 * seconds["step"]  # three virtual steps, each forward, back and back again
    operations = cost["operations"]
    assert 0 < operations["loss"] < operations["step"] < operations["meta_event"]
    assert 0 < cost["share_of_multi_adds_rate"] < 1 and cost["share_of_copy_rate"] > 0
    assert 2**20 < cost["peak_memory"]["step"] <= cost["peak_memory"]["meta_event"]


def test_multi_adds_are_those_of_the_networks(measured, call):
    """Three times the forward pass's, but for the gradient by the images; a baseline's loss has none."""
    cost = measured("loss=baseline")
    images = ["task.num_classes=10", "task.image_size=8"]
    summary = json.loads(call("task=summary", *SMALL, *images, "task.format=json").out)
    forward = sum(peer["multi_adds"] for peer in summary["peers"].values())
    stems = 2 * (3 * 3 * 3) * 4 * (8 * 8)
    assert cost["step_multi_adds"] == 64 * (3 * forward - stems)
    assert "meta_event" not in cost["seconds"] and cost["events_an_epoch"] == 0


def test_two_configs(measured, call):
    costs = measured("task.compare={loss: baseline, trainer.precision: bf16, trainer.threads: 2}")
    base, compared = costs["base"], costs["compared"]
    assert (base["loss"], base["precision"]) == ("lmcl", "float32")
    assert (compared["loss"], compared["precision"]) == ("baseline", "bf16")
    assert base["operations"]["loss"] > compared["operations"]["loss"]
    assert (base["threads"], compared["threads"]) == (1, 2)


def test_the_table(call):
    table = call(*BENCHMARK, "task.compare={loss: mcl}").out
    assert "lmcl of resnet8 & resnet8" in table and "batch 64, float32, cpu, threads: 1" in table
    for words in ("as it is", "loss=mcl", "ratio", *PARTS, "meta event", "images a second", "2 epochs", "peak memory"):
        assert words in table, words


@pytest.mark.parametrize(
    ("compare", "key", "words"),
    [
        ("{optimizer.lr: -1}", "optimizer.lr", "> 0"),
        ("{loss: nothing}", "loss", "there is no option nothing"),
        ("{task.repeats: 3}", "task.compare", "cannot change the task"),
        ("{data.batch_size: 2000}", "data.batch_size", "1000"),
        ("{a b: 2}", "a b", "cannot read"),
    ],
)
def test_a_wrong_second_config(compare, key, words, call):
    ended = call(*BENCHMARK, f"task.compare={compare}")
    assert (ended.status, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert ended.err.startswith(f"mcl_lab: error: {key}: ") and words in ended.err
