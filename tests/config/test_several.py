"""Composing many runs: each as it is composed alone, its errors too, with Hydra's work shared."""

import pytest
from omegaconf import OmegaConf

from mcl_lab import cli
from mcl_lab.config import multirun as several
from mcl_lab.config.compose import compose
from mcl_lab.config.multirun import compose_several
from mcl_lab.config.plain import plain
from mcl_lab.config.sweeps import expand
from mcl_lab.errors import InputError

MANY = [
    ["pair=resnet8,resnet8_resnet20", "loss=lmcl,baseline"],
    ["pair=resnet8,wrn_16_2", "loss=dml", "optimizer.lr=0.1,0.2", "seed=0,1"],
    ["optimizer=sgd,adamw", "optimizer.lr=1", "data.mean=[0,0,0],null", "data.augmentation=null"],
    ["seed=0,1", "+network@pair.peers.c=resnet20", "pair.peers.c.widths=[8,16,32],[4,8,16]", "~network@pair.peers.a"],
    ["optimizer.lr=1,2", "+optimizer.maximize=true", "optimizer.momentum=0", "++seed=7", "loss.meta_event.every=1,2"],
    ["~loss.weight_network", "loss.meta_event=null", "seed=1,2"],
    ["experiment=quickstart", "trainer=debug,cpu", "trainer.epochs=1,2", "loss.classification={weight:2},{weight:3}"],
    ["hydra.run.dir='x/${hydra.job.override_dirname}'", "seed=0,1", "hydra.launcher.jobs=2", "optimizer.lr='${seed}'"],
    ["tracking.uri='${oc.env:HOME}',null", "hydra.job.name=mine", "sweep=a,b"],
    ["hydra.overrides.task=[what,not]", "seed=1,2"],
]  # fmt: skip
WRONG = [
    ["seed=0,1,x"],
    ["optimizer.lr=0.1", "optimizer.lrr=1,2"],
    ["loss=lmcl,baseline", "loss.mutual_contrastive.icl=0,1"],
    ["seed=0,1", "+seed=1"],
    ["seed=0,1", "~seed"],
    ["~seed", "seed=0,1"],
    ["trainer.epochs.x=1,2"],
    ["seed=1,2", "pair=resnet8,resnet9000"],
    ["optimizer.lr=0.1,-1"],
    ["optimizer.lr='${nowhere}'", "seed=1,2"],
    ["seed@x=1,2"],
    ["seed=0,1", "hydra.sweeper.params=1"],
]


def everything(config):
    flags = [flag(node) for node in (config, config.hydra) for flag in (OmegaConf.is_struct, OmegaConf.is_readonly)]
    return OmegaConf.to_yaml(config), flags


@pytest.mark.parametrize("typed", MANY, ids=" ".join)
def test_each_is_what_it_is_alone(typed):
    runs = expand([], typed)
    configs = list(compose_several(runs))
    assert len(configs) == len(runs) > 1
    for words, config in zip(runs, configs, strict=True):
        assert everything(config) == everything(compose(words))


def test_one_is_not_changed_by_a_change_of_another():
    first, second = compose_several([["seed=1"], ["seed=2"]])
    first.optimizer.lr = 77
    assert second.optimizer.lr != 77 and everything(second) == everything(compose(["seed=2"]))


@pytest.mark.parametrize("typed", WRONG, ids=" ".join)
def test_what_is_wrong_is_what_is_wrong_with_the_first_run_that_is(typed):
    def alone(runs):
        for words in runs:
            cli.checked(words)

    runs, messages = expand([], typed), []
    for check_all in (alone, cli.all_checked):
        with pytest.raises(InputError) as caught:
            check_all(runs)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_what_is_typed_twice_counts_in_its_order():
    words = ["optimizer.lr=0.5", "++optimizer.lr=0.7", "seed=1", "optimizer.lr=0.5", "seed=1"]
    for typed in (words, words[:3], words[1:4]):
        (config,) = compose_several([typed])
        assert everything(config) == everything(compose(typed))


def test_runs_come_before_the_error_of_the_next():
    configs = compose_several([["seed=1"], ["seed=1", "nothing=1"]])
    assert next(configs).seed == 1
    with pytest.raises(InputError, match="nothing"):
        next(configs)


def test_runs_that_differ_in_values_are_composed_once(monkeypatch):
    composed = []

    def composing(words, *kept):
        composed.append(list(words))
        return compose(words, *kept)

    monkeypatch.setattr(several, "compose", composing)
    runs = expand([], ["pair=resnet8,resnet20", "optimizer.lr=0.1,0.2", "sweep=a", "seed=0,1,2", "hydra.run.dir=x"])
    assert len(list(compose_several(runs))) == 12
    assert composed == [["pair=resnet8", "hydra.run.dir=x"], ["pair=resnet20", "hydra.run.dir=x"]]


def test_options_of_ones_own(tmp_path):
    """An experiment that names the folder, and folders named like keys, which Hydra then takes for groups."""
    (tmp_path / "experiment").mkdir()
    for group in ("sweep", "optimizer.lr"):
        (tmp_path / group).mkdir()
        (tmp_path / group / "a.yaml").write_text("x: 1\n")
    experiment = tmp_path / "experiment" / "mine.yaml"
    added = [f"hydra.searchpath=['file://{tmp_path}']", "experiment=mine"]
    runs = [[*added, "data.batch_size=64", f"seed={seed}"] for seed in (1, 2)]
    for lr in (0.3, 0.4):  # what was edited in between is read anew
        folder = "hydra: {run: {dir: 'z/${hydra.job.override_dirname}'}}"
        experiment.write_text(f"# @package _global_\noptimizer: {{lr: {lr}}}\n{folder}\n")
        for words, config in zip(runs, compose_several(runs), strict=True):
            assert config.optimizer.lr == lr and everything(config) == everything(compose(words))
    for word in ("sweep=a", "optimizer.lr=1"):
        with pytest.raises(InputError) as alone:
            compose([*added, word])
        with pytest.raises(InputError) as together:
            list(compose_several([added, [*added, word]]))
        assert str(together.value) == str(alone.value)


def test_plain_values_are_the_resolved_ones():
    node, within = "loss.classification='${loss.aggregator}'", "+data.images.more=['${seed}',a,null,{b:'${seed}'}]"
    config = compose(["optimizer.lr='${seed}'", node, within, "seed=3"])
    resolved = OmegaConf.to_container(config, resolve=False)
    resolved.pop("hydra")  # where values are missing
    assert plain(config) == OmegaConf.to_container(OmegaConf.create(resolved), resolve=True)
    assert plain(config)["optimizer"]["lr"] == 3 and plain(config)["data"]["images"]["more"][3] == {"b": 3}
