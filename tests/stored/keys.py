"""Command lines, and what runs were known by when keys.json and configs/ were written: their keys, names and kinds.

A change here means that the runs that somebody has are no longer found. Made again, for a change that is meant to do
that, from the project's folder:

    PYTHONPATH=. python tests/stored/keys.py > tests/stored/keys.json

which writes configs/ too: whole config.yaml files of some of the runs.
"""

import functools
import json
import sys
from pathlib import Path

from omegaconf import DictConfig

from mcl_lab.config.check import check
from mcl_lab.config.compose import compose
from mcl_lab.config.identity import identity_of
from mcl_lab.config.stored import to_yaml

CONFIGS = Path(__file__).with_name("configs")
COMMANDS = {
    "defaults": [],
    "paper_cifar100": ["experiment=paper_cifar100"],
    "paper_pair_and_seed": ["experiment=paper_cifar100", "pair=resnet32_resnet110", "seed=2"],
    "quickstart": ["experiment=quickstart"],
    "quickstart_alone": ["experiment=quickstart", "pair=single/resnet8", "loss=baseline"],
    "baseline": ["loss=baseline", "pair=single/resnet32"],
    "baseline_of_two": ["loss=baseline"],
    "dml": ["loss=dml", "pair=wrn_16_2", "data=cifar10"],
    "kdcl": ["loss=kdcl", "loss.ensemble_distillation.ensemble=mean", "loss.ensemble_distillation.temperature=3"],
    "mcl": ["loss=mcl", "loss.ensemble_distillation.weight=1", "pair=resnet20"],
    "lmcl_uniform": ["loss=lmcl_uniform", "pair=hcgnet_a1"],
    "temperatures": ["loss.mutual_contrastive.temperature=0.07", "loss.logit_distillation.temperature=4"],
    "no_distillation": ["loss.logit_distillation=null"],
    "no_weight_network": ["~loss.weight_network", "loss.meta_event=null"],
    "meta_event": ["loss.meta_event.every=100", "loss.meta_event.inner_steps=3", "loss.meta_event.weight_decay=0"],
    "shufflenet_and_resnet": ["pair=shufflenetv2_1x_resnet110", "seed=1"],
    "third_peer": ["pair=resnet20", "+network@pair.peers.c=resnet20"],
    "three_kinds": ["pair=resnet8_resnet20", "+network@pair.peers.c=wrn_16_2", "pair.peers.c.depth=10"],
    "other_widths": ["pair=resnet32", "pair.peers.b.widths=[32,64,128]", "pair.peers.b.block=bottleneck"],
    "torchvision": ["pair=single/resnet8", "network@pair.peers.a=torchvision_resnet18", "loss=baseline"],
    "own_images": [
        "data=imagefolder", "data.root=photos", "data.name=flowers", "data.images.limit=50",
        "data.images.unreadable=skip", "data.images.size=64",
    ],
    "own_images_elsewhere": ["data=imagefolder", "data.root=/photos", "data.mean=[0.5,0.5,0.5]", "data.std=[1,1,1]"],
    "held_out": ["data.validation=0.1", "data.augmentation.padding=2", "data.augmentation.flip=false"],
    "no_augmentation": ["data=digits", "data.augmentation=null", "data.batch_size=100"],
    "multistep": ["schedule=multistep", "schedule.milestones=[100,150]", "trainer.epochs=200"],
    "adamw": ["optimizer=adamw", "optimizer.lr=3e-4", "optimizer.weight_decay=0.05", "schedule.warmup_epochs=5"],
    "plain_momentum": ["optimizer.nesterov=false", "optimizer.momentum=0.85", "optimizer.lr=1e-1"],
    "bf16": ["trainer.precision=bf16", "trainer.channels_last=false", "trainer=gpu"],
    "some_steps": ["trainer.max_steps=500", "trainer.checkpoint_steps=50", "tracking=none"],
    "settings_of_no_number": [
        "trainer=cpu", "trainer.threads=2", "trainer.deterministic=true", "tracking.uri=http://localhost:5000",
        "tracking.experiment=others", "sweep=several", "hydra.run.dir=runs/elsewhere",
    ],
}  # fmt: skip
WHOLE = (
    "defaults", "quickstart_alone", "mcl", "no_weight_network", "three_kinds", "own_images", "torchvision", "adamw",
    "settings_of_no_number",
)  # fmt: skip
_FILES: dict[tuple, bytes] = {}  # of conf/, read once


@functools.cache
def composed(name: str) -> DictConfig:
    """The checked config of one of these command lines, which nobody is to change."""
    config = compose(COMMANDS[name], kept=_FILES)
    check(config)
    return config


def known_by(config: DictConfig) -> dict[str, str]:
    identity = identity_of(config)
    return {
        "run_key": identity.run_key,
        "recipe_key": identity.recipe_key,
        "repeat_key": identity.repeat_key,
        "run_name": identity.name,
        "pair_name": identity.pair,
        "pair_kind": identity.kind,
    }


if __name__ == "__main__":
    configs = {name: composed(name) for name in COMMANDS}
    for name in WHOLE:
        (CONFIGS / f"{name}.yaml").write_text(to_yaml(configs[name], clean=str))
    json.dump({name: known_by(config) for name, config in configs.items()}, sys.stdout, indent=1)
    print()
