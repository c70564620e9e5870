"""The run key: what must change it, what must not, and the names made from it."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mcl_lab.config.compose import compose, run_folder
from mcl_lab.config.differences import changes, differences
from mcl_lab.config.identity import identity_of
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
    assert identity_of(compose([override])).run_key != identity_of(base).run_key


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
    assert identity_of(compose([override])).run_key == identity_of(base).run_key


def test_a_loss_node_that_is_null_is_not_there(base):
    gone = compose(["~loss.weight_network"])
    assert (
        identity_of(gone).run_key
        == identity_of(compose(["loss.weight_network=null"])).run_key
        != identity_of(base).run_key
    )


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
    assert identity_of(OmegaConf.create(shuffled(tree))).run_key == identity_of(base).run_key


@settings(max_examples=40, deadline=None)
@given(st.integers(-(2**50), 2**50), st.integers(-(2**50), 2**50))
def test_one_key_for_equal_numbers_and_only_for_them(base, a, b):
    one, other = changed(base, optimizer__lr=a), changed(base, optimizer__lr=float(b))
    assert (identity_of(one).run_key == identity_of(other).run_key) == (a == b)


def test_true_is_not_one(base):
    assert identity_of(changed(base, optimizer__nesterov=1)).run_key != identity_of(base).run_key


def test_recipe_is_the_key_without_pair_loss_and_seed(base):
    recipe = identity_of(base).recipe_key
    assert recipe == identity_of(compose(["pair=single/resnet8", "loss=baseline", "seed=7"])).recipe_key
    assert recipe != identity_of(compose(["optimizer.lr=0.2"])).recipe_key
    assert recipe != identity_of(compose(["data.batch_size=64"])).recipe_key


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
    assert (identity_of(config).pair, identity_of(config).kind) == (name, kind)


def test_run_name_is_the_default_folder(base):
    assert identity_of(base).name == f"resnet32-lmcl-s0-{identity_of(base).run_key[:8]}"
    assert run_folder(base).as_posix() == f"runs/{identity_of(base).name}"
    assert run_folder(compose(["hydra.run.dir=here"])).as_posix() == "here"
    assert re.fullmatch(r"[0-9a-f]{64}", identity_of(base).run_key)


PLAIN = st.text().filter(lambda text: text != "???" and "$" not in text)  # which mean something to OmegaConf


@settings(max_examples=40, deadline=None)
@given(PLAIN, PLAIN)
def test_names_are_fit_for_files(base, network, loss):
    config = changed(base, pair__peers__a__name=network, loss__name=loss)
    assert set(identity_of(config).name) <= set(string.ascii_letters + string.digits + "._-")
    assert not identity_of(config).name.startswith((".", "-")) and len(identity_of(config).name) < 200


def test_differences_are_lines_by_leaf():
    ours = {"optimizer": {"lr": 0.1, "betas": [1, 2]}, "seed": 0, "loss": {}}
    theirs = {"optimizer": {"lr": 0.2, "betas": [1, 3]}, "seed": 0, "loss": {"x": None}}
    assert differences(ours, theirs) == [
        "loss: {} -> (none)", "loss.x: (none) -> null", "optimizer.betas: [1, 2] -> [1, 3]", "optimizer.lr: 0.1 -> 0.2",
    ]  # fmt: skip
    assert differences(ours, ours) == []


def test_changes_are_what_one_would_type():
    ours = {"loss": {"a": {"x": 1, "y": 2}, "b": {"x": 1}}, "data": {"mean": [1], "crop": {"size": 4}}, "epochs": 3}
    theirs = {"loss": {"a": {"x": 1, "y": 5}, "c": {"z": True}}, "data": {"mean": [1], "crop": None}, "epochs": 3}
    assert changes(ours, theirs) == {"data.crop": "null", "loss.a.y": "5", "loss.b": "null", "loss.c.z": "True"}
    assert changes(ours, ours) == {}


def test_runs_that_differ_in_the_seed_only_repeat_one_another(base):
    assert identity_of(compose(["seed=1"])).repeat_key == identity_of(base).repeat_key
    for override in ("loss=baseline", "pair=resnet20", "trainer.epochs=3"):
        assert identity_of(compose([override])).repeat_key != identity_of(base).repeat_key


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("", "36c72730d1536c05"),
        ("pair=resnet32_resnet110", "0e0a7eed67026711"),
        ("pair=hcgnet_a1", "76b85f7ac4bf4d3f"),
        ("pair=shufflenetv2_1x_wrn_40_2", "d8ed3a7f066dc750"),
        ("loss=dml", "fe95ad6f1867d9dc"),
        ("loss=kdcl", "0274b61f28aa4cf4"),
        ("loss=mcl", "8df04995d7e94a5e"),
        ("loss=lmcl_uniform", "8daec7ff43f0c5bb"),
        ("pair=single/resnet8 loss=baseline", "80f311060b6e7fa5"),
        ("data=cifar10", "1ee6dfc7e7c9d270"),
        ("data=digits", "0977ce20151ac0c8"),
        ("data=imagefolder data.root=x", "c66d9c2fc4090aca"),
        ("data=imagefolder data.root=x data.images.unreadable=skip", "d06ff4e73d67d1ff"),
        ("network@pair.peers.b=torchvision_resnet18", "e9b4723c0cd2938a"),
        ("optimizer=adamw", "6cbccfc1032ea647"),
        ("schedule=multistep", "fbd350ebcefe21be"),
        ("trainer=gpu", "49318982f28347ff"),
        ("experiment=quickstart", "4715958ab3948208"),
        ("data.augmentation=null", "f78cbcd20f921419"),
        ("+optimizer.dampening=0.1 seed=3", "f9f7bd7dff208ab8"),
    ],
)
def test_runs_that_people_have_keep_their_key(command, key):
    """The keys of stored runs: a change here orphans them."""
    assert identity_of(compose(command.split())).run_key.startswith(key)
