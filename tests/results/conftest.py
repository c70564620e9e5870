"""Runs as a report sees them, made by hand."""

import pytest

from mcl_lab.results.reported_runs import ReportedPeer, ReportedRun

PAPER = {
    "data.images._target_": "mcl_lab.data.datasets.cifar100",
    "data.batch_size": 128,
    "data.validation": 0,
    "data.augmentation._target_": "mcl_lab.data.augmentation.CropFlip",
    "data.augmentation.padding": 4,
    "data.augmentation.flip": True,
    "optimizer._target_": "torch.optim.SGD",
    "optimizer.lr": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 0.0005,
    "schedule._target_": "mcl_lab.training.schedules.Cosine",
    "schedule.warmup_epochs": 0,
    "trainer.epochs": 300,
    "trainer.max_steps": None,
    "trainer.precision": "float32",
}
COMMIT = "0123456789abcdef" * 2 + "01234567"


def a_run(networks, accuracies=None, *, loss="lmcl", seed=0, recipe=None, changed=None, **other) -> ReportedRun:
    """A run of these networks, finished with these accuracies (of the own heads at the last epoch), one each."""
    recipe = PAPER | (recipe or {})
    changed = changed or {}
    names = "abcd"[: len(networks)]
    accuracies = accuracies or [None] * len(networks)
    peers = {
        name: ReportedPeer(network, {"name": network}, {} if accuracy is None else {"own_head_last_epoch": accuracy})
        for name, network, accuracy in zip(names, networks, accuracies, strict=True)
    }
    finished = None not in accuracies
    kind = "single" if len(networks) == 1 else "homogeneous" if len(set(networks)) == 1 else "heterogeneous"
    repeat = f"{networks} {loss} {sorted(changed.items())} {sorted(recipe.items(), key=str)}"
    return ReportedRun(
        **{
            "name": f"{'_'.join(networks)}-{loss}-s{seed}",
            "run_key": f"{repeat} {seed}",
            "repeat_key": repeat,
            "recipe_key": str(sorted(recipe.items(), key=str)),
            "recipe": recipe,
            "changed": changed,
            "pair": networks[0] if kind == "homogeneous" else "_".join(networks),
            "kind": kind,
            "loss": loss,
            "dataset": "cifar100",
            "seed": seed,
            "peers": peers,
            "state": "finished" if finished else "running",
            "message": "",
            "epochs": None if finished else 120,
            "commit": COMMIT,
            "created_ms": seed,
            "tags": {},
            "place": "",
        }
        | other
    )


@pytest.fixture
def run():
    return a_run


@pytest.fixture
def alone():
    """alone(network, accuracy, ...) -> that network trained by itself."""
    return lambda network, accuracy=None, **other: a_run(
        [network], accuracy and [accuracy], **{"loss": "baseline"} | other
    )
