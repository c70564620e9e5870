"""config.yaml of a run folder: a round trip, what it must not hold, and what may change when a run goes on."""

import os
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from mcl_lab.config.check import check
from mcl_lab.config.compose import compose, defaults_for, overrides, run_folder
from mcl_lab.config.differences import differences
from mcl_lab.config.identity import identity_of
from mcl_lab.config.plain import plain
from mcl_lab.config.stored import read_config, resumed, to_yaml
from mcl_lab.errors import InputError
from mcl_lab.host.secrets import without_credentials

TASK = ["task._target_=stand_in.anything"]
TYPED = [
    *TASK, "pair=resnet8", "network@pair.peers.b=resnet20", "optimizer.lr=0.3", "data=digits", "trainer.epochs=7",
    "loss.name='at ${optimizer.lr}'",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, stand_in):
    (tmp_path / "config.yaml").write_text(to_yaml(compose(TYPED), clean=str))
    return tmp_path


def rewrite(folder, change):
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    change(tree)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))


def test_round_trip(folder):
    config = compose(TYPED)
    stored = read_config(folder, "task.checkpoint")
    assert plain(stored) == plain(config) and identity_of(stored).run_key == identity_of(config).run_key
    assert yaml.safe_load((folder / "config.yaml").read_text())["loss"]["name"] == "at 0.3"


def test_the_run_goes_on_where_it_is(folder):
    config = resumed(compose([*TASK, f"resume={folder}"]))
    check(config)
    assert run_folder(config) == folder and config.resume == str(folder)
    assert identity_of(config).run_key == identity_of(compose(TYPED)).run_key
    assert overrides(config) == TYPED
    lines = differences(identity_of(defaults_for(config)).deciding, identity_of(config).deciding)
    assert lines == ["loss.name: lmcl -> at 0.3", "optimizer.lr: 0.1 -> 0.3", "trainer.epochs: 300 -> 7"]
    assert "resume: null" in to_yaml(config, clean=str)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("trainer.device=cpu", "trainer.device", "cpu"),
        ("trainer.threads=3", "trainer.threads", 3),
        ("trainer=debug", "trainer.checkpoint_steps", 2),
        ("tracking=none", "tracking.uri", None),
        ("tracking.uri=http://host", "tracking.uri", "http://host"),
        ("+data.root=/there", "data.root", "/there"),
        ("+task.label=x", "task.label", "x"),
        ("optimizer.lr=0.3", "optimizer.lr", 0.3),
    ],
)
def test_what_does_not_decide_numbers_may_change(folder, override, key, value):
    config = resumed(compose([*TASK, "data=digits", f"resume={folder}", override]))
    assert OmegaConf.select(config, key) == value
    assert identity_of(config).run_key == identity_of(compose(TYPED)).run_key


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("optimizer.lr=0.2", "optimizer.lr: 0.3 -> 0.2"),
        ("trainer.epochs=8", "trainer.epochs: 7 -> 8"),
        ("trainer.precision=bf16", "trainer.precision: float32 -> bf16"),
        ("seed=1", "seed: 0 -> 1"),
        ("network@pair.peers.b=resnet8", "pair.peers.b.name: resnet20 -> resnet8"),
        ("+network@pair.peers.c=resnet8", "pair.peers.c.name: (none) -> resnet8"),
        ("~network@pair.peers.b", "pair.peers.b.name: resnet20 -> (none)"),
        ("~loss.weight_network", "loss.weight_network.width: 128 -> (none)"),
        ("loss=baseline", "loss.name: at 0.3 -> baseline"),
        ("data=cifar10", "data.name: digits -> cifar10"),
        ("experiment=quickstart", "leave experiment out"),
    ],
)
def test_what_decides_numbers_may_not(folder, override, difference):
    config = compose([*TASK, f"resume={folder}", override])
    with pytest.raises(InputError) as caught:
        resumed(config)
    assert caught.value.key == "resume" and difference in str(caught.value)


def set_target(tree):
    tree["loss"]["classification"]["_target_"] = "os.system"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_target, "os.system is not allowed"),
        (lambda tree: tree.update(config_version=99), "newer than this code"),
        (lambda tree: tree["data"].update(name="${oc.env:HOME}"), "interpolation"),
        (lambda tree: tree["pair"]["peers"]["a"].update(blocks=["${seed}"]), "interpolation"),
        (lambda tree: tree["optimizer"].update(lr=-1), "optimizer.lr: must be"),
        (lambda tree: tree["optimizer"].update(lr="???"), "optimizer.lr: needs a value"),
        (lambda tree: tree.update(extra=1), "extra: there is no such setting"),
        (lambda tree: tree.pop("loss"), "loss: is missing"),
        (lambda tree: tree.pop("hydra"), "hydra: must hold"),
        (lambda tree: tree.update(hydra={"overrides": {"task": [3]}, "runtime": {"choices": {}}}), "hydra: must hold"),
        (lambda tree: tree.update(hydra=3), "hydra: must be a mapping"),
        (lambda tree: tree.update(hydra={"callbacks": {"x": {"_target_": "os.system"}}}), "not allowed"),
        (lambda tree: tree.update(trainer=[1]), "trainer: must be a mapping"),
        (lambda tree: tree.update(pair={"peers": [1]}), "pair.peers: must be a mapping"),
        (lambda tree: tree.update(loss={"name": "x", "branches": True, "class_balanced": False, "y": 3}), "loss.y"),
    ],
)
def test_a_stored_config_is_not_trusted(folder, change, words):
    rewrite(folder, change)
    with pytest.raises(InputError) as caught:
        read_config(folder, "resume")
    assert caught.value.key == "resume" and words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "just text", "a: [1", "a: !!python/object/apply:os.system ['touch hacked']", "a: ${b", "\x00", "a: 1"],
)
def test_what_is_no_config(folder, text, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^resume: "):
        read_config(folder, "resume")
    assert not Path("hacked").exists()


def test_no_folder_no_file_no_permission(folder):
    for missing in ("", folder / "nowhere", folder / "config.yaml"):
        with pytest.raises(InputError, match="is no folder"):
            read_config(missing, "resume")
    os.remove(folder / "config.yaml")
    with pytest.raises(InputError, match="has no config.yaml"):
        read_config(folder, "resume")
    (folder / "config.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="cannot be read"):
        read_config(folder, "resume")


@pytest.mark.parametrize("uri", ["http://me:secret@host:5000/x", "postgresql+psycopg://me:sec@ret@host/db"])
def test_secrets_are_not_stored(uri):
    text = to_yaml(compose([f"tracking.uri='{uri}'"]), clean=without_credentials)
    assert "sec" not in text and "ret@" not in text and text.count("://host") == 2
