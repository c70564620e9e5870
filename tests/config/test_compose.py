"""Composing: every shipped option, what was typed, the defaults of the same choices."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mcl_lab.config import compose as composing
from mcl_lab.config.check import check
from mcl_lab.config.compose import compose, defaults_for, overrides
from mcl_lab.config.differences import differences
from mcl_lab.config.identity import identity_of
from mcl_lab.config.multirun import compose_several
from mcl_lab.config.targets import SLURM

NEEDED = {
    "imagefolder": ["data.root=here"],
    "evaluate": ["task.checkpoint=here"],
    "export": ["task.checkpoint=here"],
    "features": ["task.checkpoint=here"],
    "reproduce": ["task.run=here"],
    "sweep": ["task.sweep=here"],
}
OPTIONS = [
    f"{group}={path.relative_to(composing.CONF / group).with_suffix('')}"
    for group in ("task", "data", "pair", "loss", "optimizer", "schedule", "trainer", "tracking", "experiment")
    for path in sorted((composing.CONF / group).rglob("*.yaml"))
]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_shipped_option_passes_the_check(option):
    _, _, name = option.partition("=")
    check(compose([option, *(["loss=baseline"] if name.startswith("single/") else NEEDED.get(name, []))]))


def test_what_was_typed():
    typed = ["seed=3", "+network@pair.peers.c=resnet8", "~loss.weight_network", "hydra.run.dir=x"]
    assert overrides(compose(typed)) == typed[:3]


@pytest.mark.parametrize(
    ("typed", "lines"),
    [
        ([], []),
        (["pair=resnet8", "loss=baseline", "data=digits", "trainer=debug"], []),
        (["optimizer.lr=0.3", "trainer.device=cpu"], ["optimizer.lr: 0.1 -> 0.3"]),
        (["network@pair.peers.b=resnet8", "+network@pair.peers.c=resnet20", "seed=2"], ["seed: 0 -> 2"]),
        (["~network@pair.peers.a", "optimizer=adamw"], []),
        (["experiment=paper_cifar100", "trainer.epochs=7"], ["trainer.epochs: 300 -> 7"]),
        (["data=imagefolder", "data.root=here", "data.images.size=64"], ["data.images.size: 32 -> 64"]),
    ],
)
def test_defaults_keep_the_choices_and_drop_the_values(typed, lines):
    config = compose(typed)
    defaults = defaults_for(config)
    assert differences(identity_of(defaults).deciding, identity_of(config).deciding) == lines
    assert list(defaults.pair.peers) == list(config.pair.peers)


LAUNCHER = "# @package _global_\ndefaults: [{override /hydra/launcher: slurm_cpu}, {override /trainer: cpu}]\n"


def test_an_experiment_chooses_groups_of_hydra_as_it_does_ours_and_what_is_typed_comes_before_it(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"{LAUNCHER}hydra: {{launcher: {{partition: short}}}}\n")
    mine = [f"hydra.searchpath=['file://{tmp_path}']", "experiment=mine"]
    config = compose(mine)
    check(config)
    launcher = config.hydra.launcher
    assert (launcher._target_, launcher.gpus, launcher.partition, config.trainer.device) == (SLURM, 0, "short", "cpu")
    assert compose([*mine, "hydra/launcher=slurm"]).hydra.launcher.gpus == 1
    [several] = compose_several([mine])
    assert several.hydra.launcher == launcher


def test_composing_inside_hydra_leaves_hydra_as_it_was():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(composing.CONF), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        compose(["seed=1"])
        assert GlobalHydra.instance().hydra is outer


def test_folders_of_options_are_where_the_error_messages_look():
    assert Path(composing.CONF, "config.yaml").is_file()
    assert composing.is_group("pair") and composing.is_group("hydra/launcher")
    assert not composing.is_group("seed") and not composing.is_group("")


def test_interpolations_of_the_composed_config_resolve():
    config = compose(["trainer.epochs=7", "loss.name='of ${trainer.epochs}'"])
    assert config.loss.name == "of 7" and OmegaConf.is_struct(config)


def test_a_file_of_ones_own_may_leave_out_what_came_later(tmp_path):
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "mine.yaml").write_text("uri: null\nexperiment: mine\nwait: 0\n")
    config = compose([f"hydra.searchpath=['file://{tmp_path}']", "tracking=mine"])
    check(config)
    assert config.tracking == {"uri": None, "experiment": "mine", "wait": 0, "models": False, "system": None}
