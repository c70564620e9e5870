"""The run key: what must change it, what must not, and the names made from it."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mcl_lab.config import key
from mcl_lab.config.compose import compose, run_folder
from mcl_lab.config.plain import plain


@pytest.fixture(scope="module")
def base():
    return compose([])


def changed(config, **leaves):
    config = OmegaConf.create(plain(config))
    for name, value in leaves.items():
        OmegaConf.update(config, name.replace("__", "."), value, force_add=True)
    return config


@pytest.mark.parametrize(
    "override",
    [
        "seed=1", "optimizer.lr=0.2", "optimizer=adamw", "trainer.epochs=3", "trainer.max_steps=5",
        "trainer.precision=bf16", "pair=resnet20", "pair.peers.b.blocks=[5,5,4]", "loss=baseline",
        "loss.mutual_contrastive.icl=0", "loss.weight_network=null", "schedule=multistep", "data.batch_size=64",
        "data=cifar10", "data.augmentation=null", "data.validation=0.1", "+network@pair.peers.c=resnet32",
    ],
)  # fmt: skip
def test_what_decides_the_numbers_changes_the_key(base, override):
    assert key.run_key(compose([override])) != key.run_key(base)


@pytest.mark.parametrize(
    "override",
    [
        "trainer=cpu", "trainer.device=cpu", "trainer.threads=1",
        "trainer.deterministic=true", "trainer.compile=true", "trainer.graphs=true", "trainer.checkpoint_steps=7",
        "data.root=/elsewhere", "tracking=none", "tracking.system=5",
        "task=summary", "tracking.uri=http://host", "hydra.run.dir=here", "resume=there", "optimizer.lr=1e-1",
        "data.validation=0", "experiment=paper_cifar100", "trainer.epochs=300", "loss.classification.weight=1",
    ],
)  # fmt: skip
def test_the_rest_does_not(base, override):
    assert key.run_key(compose([override])) == key.run_key(base)


def test_a_loss_node_that_is_null_is_not_there(base):
    gone = compose(["~loss.weight_network"])
    assert key.run_key(gone) == key.run_key(compose(["loss.weight_network=null"])) != key.run_key(base)


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_order_of_keys_does_not_matter(base, random):
    def shuffled(tree):
        if not isinstance(tree, dict):
            return tree
        names = list(tree)
        random.shuffle(names)
        return {name: shuffled(tree[name]) for name in names}

    tree = plain(base)
    assert key.run_key(OmegaConf.create(shuffled(tree))) == key.run_key(base)


@settings(max_examples=40, deadline=None)
@given(st.integers(-(2**50), 2**50), st.integers(-(2**50), 2**50))
def test_one_key_for_equal_numbers_and_only_for_them(base, a, b):
    one, other = changed(base, optimizer__lr=a), changed(base, optimizer__lr=float(b))
    assert (key.run_key(one) == key.run_key(other)) == (a == b)


def test_true_is_not_one(base):
    assert key.run_key(changed(base, optimizer__nesterov=1)) != key.run_key(base)


def test_recipe_is_the_key_without_pair_loss_and_seed(base):
    recipe = key.recipe_key(base)
    assert recipe == key.recipe_key(compose(["pair=single/resnet8", "loss=baseline", "seed=7"]))
    assert recipe != key.recipe_key(compose(["optimizer.lr=0.2"]))
    assert recipe != key.recipe_key(compose(["data.batch_size=64"]))


@pytest.mark.parametrize(
    ("overrides", "name", "kind"),
    [
        (["pair=resnet32"], "resnet32", "homogeneous"),
        (["pair=resnet32_resnet110"], "resnet32_resnet110", "heterogeneous"),
        (["pair=resnet32", "network@pair.peers.b=resnet110"], "resnet32_resnet110", "heterogeneous"),
        (["pair=resnet32", "+network@pair.peers.c=resnet32"], "resnet32x3", "homogeneous"),
        (["pair=resnet8", "+network@pair.peers.Z=resnet20"], "resnet20_resnet8_resnet8", "heterogeneous"),
        (["pair=resnet8", "pair.peers.b.blocks=[1,1,2]"], "resnet8_resnet8", "heterogeneous"),
        (["pair=single/resnet32"], "single-resnet32", "single"),
        (["pair=resnet32", "~network@pair.peers.a"], "single-resnet32", "single"),
        (["pair=single/resnet8", "pair.peers.a.name='../my net/é'"], "single-my-net", "single"),
    ],
)
def test_pair(overrides, name, kind):
    config = compose(overrides)
    assert (key.pair_name(config), key.pair_kind(config)) == (name, kind)


def test_run_name_is_the_default_folder(base):
    assert key.run_name(base) == f"resnet32-lmcl-s0-{key.run_key(base)[:8]}"
    assert run_folder(base).as_posix() == f"runs/{key.run_name(base)}"
    assert run_folder(compose(["hydra.run.dir=here"])).as_posix() == "here"
    assert re.fullmatch(r"[0-9a-f]{64}", key.run_key(base))


PLAIN = st.text().filter(lambda text: text != "???" and "$" not in text)  # which mean something to OmegaConf


@settings(max_examples=40, deadline=None)
@given(PLAIN, PLAIN)
def test_names_are_fit_for_files(base, network, loss):
    config = changed(base, pair__peers__a__name=network, loss__name=loss)
    assert set(key.run_name(config)) <= set(string.ascii_letters + string.digits + "._-")
    assert not key.run_name(config).startswith((".", "-")) and len(key.run_name(config)) < 200


def test_differences_are_lines_by_leaf():
    ours = {"optimizer": {"lr": 0.1, "betas": [1, 2]}, "seed": 0, "loss": {}}
    theirs = {"optimizer": {"lr": 0.2, "betas": [1, 3]}, "seed": 0, "loss": {"x": None}}
    assert key.differences(ours, theirs) == [
        "loss: {} -> (none)", "loss.x: (none) -> null", "optimizer.betas: [1, 2] -> [1, 3]", "optimizer.lr: 0.1 -> 0.2",
    ]  # fmt: skip
    assert key.differences(ours, ours) == []


def test_changes_are_what_one_would_type():
    ours = {"loss": {"a": {"x": 1, "y": 2}, "b": {"x": 1}}, "data": {"mean": [1], "crop": {"size": 4}}, "epochs": 3}
    theirs = {"loss": {"a": {"x": 1, "y": 5}, "c": {"z": True}}, "data": {"mean": [1], "crop": None}, "epochs": 3}
    assert key.changes(ours, theirs) == {"data.crop": "null", "loss.a.y": "5", "loss.b": "null", "loss.c.z": "True"}
    assert key.changes(ours, ours) == {}


def test_runs_that_differ_in_the_seed_only_repeat_one_another(base):
    assert key.repeat_key(compose(["seed=1"])) == key.repeat_key(base)
    for override in ("loss=baseline", "pair=resnet20", "trainer.epochs=3"):
        assert key.repeat_key(compose([override])) != key.repeat_key(base)
