"""Networks of one's own with frozen, shared, tied and lazily made parameters: trained together, and everything done with such a
run that handles parameters."""

import json
import shutil
import signal

import pytest
import torch
from torch import nn
from training_runs import SMALL, assert_same_run, networks, only_folder, result

import mcl_lab
from mcl_lab.data.datasets import digits
from mcl_lab.networks.staged import StagedNetwork

KINDS = {"a": "Frozen", "b": "Shared", "c": "Tied", "d": "Lazy"}
PLAIN = [*[word for word in SMALL if ".widths" not in word], "trainer.max_steps=4", "tracking=none"]
RUN = [*PLAIN, "loss.meta_event.every=2"]


def stage():
    return nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))


class Small(StagedNetwork):
    def __init__(self, num_classes, stages, neck, stem=None):
        super().__init__(stem or nn.Conv2d(3, 4, 3), stages, neck, width=4, num_classes=num_classes)


class Frozen(Small):
    """The second stage has pretrained values, and its BatchNorm the statistics that go with them."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes, [stage(), stage(), stage()], nn.ReLU())
        with torch.no_grad():
            for value in self.stages[1].state_dict().values():
                value.fill_(0.5)
        self.stages[1].requires_grad_(False)
        self.places = nn.Parameter(torch.arange(4), requires_grad=False)
        self.mask = nn.Parameter(torch.tensor([0, -torch.inf]), requires_grad=False)
        self.rounded = nn.Parameter(torch.tensor(0.1, dtype=torch.bfloat16), requires_grad=False)

    def train(self, mode: bool = True):
        super().train(mode)
        self.stages[1].eval()
        return self


class Shared(Small):
    def __init__(self, num_classes: int):
        shared = stage()
        super().__init__(num_classes, [stage(), shared, shared], shared[2])


class Tied(Small):
    def __init__(self, num_classes: int):
        stages, neck = [stage(), stage()], nn.Conv2d(4, 4, 3)
        neck.weight = stages[1][1].weight
        super().__init__(num_classes, stages, neck)


class Lazy(Small):
    def __init__(self, num_classes: int):
        stages = [nn.Sequential(nn.LazyConv2d(4, 3, 2, 1), nn.LazyBatchNorm2d(), nn.ReLU()) for _ in range(3)]
        super().__init__(num_classes, stages, nn.ReLU(), nn.LazyConv2d(4, 3))


class Pretrained(Small):
    """The stem has the values in a file, and keeps them."""

    def __init__(self, num_classes: int, *, file: str):
        super().__init__(num_classes, [stage()], nn.ReLU())
        self.stem.load_state_dict(torch.load(file))
        self.stem.requires_grad_(False)


class LazyLater(Frozen):
    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.later = nn.LazyLinear(3)


class WhollyFrozen(Frozen):
    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.requires_grad_(False)


class LazyTerm(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.LazyLinear(3)


class FixedWeights(nn.Module):
    """Layer-matching weights that nothing trains."""

    def __init__(self, heads):
        super().__init__()
        self.pairs = sum(heads) ** 2 - sum(count**2 for count in heads)

    def forward(self, embeddings):
        return embeddings[0][0].new_full((self.pairs, len(embeddings[0][0])), 0.5)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The command of a run of all four."""
    folder = tmp_path_factory.mktemp("conf")
    (folder / "network").mkdir()
    for kind in (Frozen, Shared, Tied, Lazy, Pretrained, LazyLater, WhollyFrozen):
        name = kind.__name__
        (folder / "network" / f"{name}.yaml").write_text(f"name: {name}\n_target_: {__name__}.{name}\n")
    with (folder / "network" / "Pretrained.yaml").open("a") as file:
        file.write("file: stem.pt\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MCL_LAB_PLUGINS", __name__)
        peers = [f"{'+' * (key > 'b')}network@pair.peers.{key}={kind}" for key, kind in KINDS.items()]
        yield [f"--config-dir={folder}", *RUN, *peers]


@pytest.fixture(scope="module")
def trained(words, undisturbed):
    return undisturbed(*words)


def test_frozen_values_stay_to_the_bit_and_all_others_learn(trained, words, undisturbed):
    before, after = networks(undisturbed(*words, "trainer.max_steps=1", "optimizer.lr=1e-30")), networks(trained)
    frozen = {name for name in after if name.startswith("cohort peers.a.network.stages.1.")}
    frozen |= {name for name in after if "peers.a.branches.0.stages.0." in name and "running" not in name}
    frozen = {name for name in frozen if "num_batches" not in name}
    assert len(frozen) == 10
    assert all((after[name] == 0.5).all() for name in frozen)
    fixed = {f"cohort peers.a.network.{name}" for name in ("places", "mask", "rounded")}
    assert after["cohort peers.a.network.places"].tolist() == [0, 1, 2, 3]
    unchanged = {name for name in after if after[name].equal(before[name])}
    assert frozen | fixed <= unchanged
    assert not [name for name in unchanged - frozen - fixed if "weight" in name.rpartition(".")[2]]


def test_shared_and_tied_values_stay_one(trained):
    after = networks(trained)
    for part in ("1", "2"):
        for name in ("1.weight", "2.weight", "2.running_mean"):
            first, again = (after[f"cohort peers.b.network.stages.{k}.{name}"] for k in ("1", part))
            assert first.equal(again)
    assert after["cohort peers.b.network.neck.weight"].equal(after["cohort peers.b.network.stages.2.2.weight"])
    for place in ("network", "branches.0"):
        later = after[f"cohort peers.c.{place}.stages.{1 if place == 'network' else 0}.1.weight"]
        assert later.equal(after[f"cohort peers.c.{place}.neck.weight"])


def test_goes_on_to_the_same_bits(trained, words, call, stopping, tmp_path):
    with stopping(3, signal.SIGTERM):
        assert call(*words).status == 128 + signal.SIGTERM
    ended = call(*words)
    assert (ended.status, ended.err) == (0, "")
    assert_same_run(only_folder(tmp_path), trained)


def test_evaluated_and_reproduced(trained, words, call):
    ended = call("task=evaluate", "trainer=cpu", "trainer.threads=1", f"task.checkpoint={trained}", "task.format=json")
    heads = json.loads(ended.out)["top1"]
    finals = {key: peer["own_head_last_epoch"] for key, peer in result(trained)["peers"].items()}
    assert {key: heads[key]["own_head"] for key in heads} == finals
    again = call(words[0], "task=reproduce", f"task.run={trained}", "tracking=none", "task.format=json")
    assert json.loads(again.out)["verdict"] == "reproduced to the bit"


@pytest.mark.full
def test_exported(trained, call, tmp_path):
    home = tmp_path / "home"
    ended = call("task=export", "trainer.threads=1", f"task.checkpoint={trained}", f"task.folder={home}")
    assert (ended.status, ended.err) == (0, "")
    assert len(list(home.glob("*.onnx"))) == len(list(home.glob("*.pt2"))) == len(KINDS)
    images = digits(8).test.images[:9] / 255
    for key, kind in KINDS.items():
        found = [mcl_lab.load(trained, key), mcl_lab.load(home / f"{key}-{kind}.json")]
        assert found[0](images).equal(found[1](images))


def test_counted(words, call):
    told = call(words[0], "task=summary", *words[-4:], "task.num_classes=10", "task.format=json")
    counts = {peer["network"]: peer for peer in json.loads(told.out)["peers"].values()}
    stem, of_a_stage, head = 4 * 3 * 9 + 4, 4 * 4 * 9 + 4 + 8, 4 * 10 + 10
    assert counts["Frozen"]["parameters"] == stem + 3 * of_a_stage + head + 7
    assert counts["Frozen"]["frozen_parameters"] == of_a_stage + 7
    assert counts["Frozen"]["frozen_parameters_with_branches"] == 2 * of_a_stage + 7  # of the first branch, too
    assert counts["Shared"]["parameters"] == stem + 2 * of_a_stage + head
    assert counts["Tied"]["parameters"] == stem + 2 * of_a_stage + 4 + head
    assert counts["Lazy"]["parameters"] == stem + 3 * of_a_stage + head
    table = call(words[0], "task=summary", *words[-4:], "task.num_classes=10").out
    assert f"a: Frozen: {of_a_stage + 7} parameters are frozen, {2 * of_a_stage + 7} with branches\n" in table
    assert table.count("frozen,") == 1


@pytest.mark.parametrize(
    ("chosen", "line"),
    [
        (["network@pair.peers.b=LazyLater"], "pair.peers.b: later.weight is of a lazy layer and has no shape yet"),
        ([f"+loss.own._target_={__name__}.LazyTerm"], "loss.own: head.weight is of a lazy layer"),
        (
            ["network@pair.peers.a=WhollyFrozen", "pair=single/resnet8", "loss=baseline"],
            "pair.peers: nothing to train, as no parameter requires gradient",
        ),
        (
            ["~loss.weight_network.width", f"loss.weight_network._target_={__name__}.FixedWeights"],
            "loss.weight_network: nothing to train, as no parameter requires gradient; loss.meta_event=null leaves it",
        ),
    ],
    ids=["network", "term", "all frozen", "weight network"],
)
def test_what_cannot_be_trained_is_refused(chosen, line, words, call, tmp_path):
    ended = call(words[0], *PLAIN, *chosen)
    assert ended.status == 2 and ended.err.startswith(f"mcl_lab: error: {line}") and ended.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_weights_that_nothing_trains_need_no_meta_event(words, call, tmp_path):
    fixed = ["~loss.weight_network.width", f"loss.weight_network._target_={__name__}.FixedWeights"]
    ended = call(*PLAIN, *fixed, "loss.meta_event=null")
    assert (ended.status, ended.err) == (0, "")
    assert result(only_folder(tmp_path))["steps"] == 4


def test_pretrained_weights_that_have_changed_are_told_by_what_a_run_began_with(words, call, tmp_path):
    file = tmp_path / "stem.pt"
    run = [words[0], *PLAIN, "loss=baseline", "pair=single/resnet8", "network@pair.peers.a=Pretrained"]
    missing = call(*run)
    assert (missing.status, missing.err.count("\n")) == (2, 1)
    assert missing.err.startswith("mcl_lab: error: pair.peers.a: the network reads stem.pt, which is not there")
    differing = []
    for value in (1.0, 1.0, 2.0):
        torch.save({"weight": torch.full((4, 3, 3, 3), value), "bias": torch.zeros(4)}, file)
        if not differing:
            assert call(*run).status == 0
        folder = next((tmp_path / "runs").glob("single-*"))
        shutil.rmtree(tmp_path / "runs" / "reproduced", ignore_errors=True)
        again = call(words[0], "task=reproduce", f"task.run={folder}", "tracking=none", "task.format=json")
        differing.append(json.loads(again.out)["differs"])
    assert differing[0] == differing[1] == {}
    assert list(differing[2]) == ["initial_weights"]
    file.unlink()
    evaluated = call(words[0], "task=evaluate", f"task.checkpoint={folder}", "trainer.threads=1")
    assert (evaluated.status, evaluated.out) == (2, "") and "stem.pt, which is not there" in evaluated.err
