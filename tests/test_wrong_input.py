"""Wrong command lines: exit status 2, one line that names the setting and what would be right, nothing written."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run

# (arguments, the setting that the line names first, words that it must hold besides)
WRONG = [
    # options and groups
    (["pair=resnet33"], "pair", ["did you mean resnet32?", "single/resnet8"]),
    (["optimizer=sdg"], "optimizer", ["did you mean sgd?", "adamw"]),
    (["experiment=quickstrt"], "experiment", ["did you mean quickstart?", "paper_cifar100"]),
    (["data=mnist"], "data", ["cifar100", "digits", "imagefolder"]),
    (["loss=null"], "loss", ["lmcl", "baseline"]),
    (["loss=3"], "loss", ["lmcl", "baseline"]),
    (["task="], "task", ["train", "summary"]),
    (["network@pair.peers.b=resnet9"], "network@pair.peers.b", ["did you mean resnet"]),
    (["+network@pair.peers.c=resnet9"], "network@pair.peers.c", ["did you mean resnet"]),
    (["network@pair.peers.z=resnet8"], "network@pair.peers.z", ["+network@pair.peers.z"]),
    (["~network@pair.peers.z"], "network@pair.peers.z", ["did you mean network@pair.peers.", "cannot be removed"]),
    (["network=resnet8"], "network", ["did you mean network@pair.peers."]),
    (["optimiser=sgd"], "optimiser", ["did you mean optimizer?"]),
    (["+optimiser=sgd"], "optimiser", ["did you mean optimizer?"]),
    (["~optimizer"], "optimizer", ["is missing"]),
    (["~trainer"], "trainer", ["is missing"]),
    (["~network@pair.peers.a", "~network@pair.peers.b"], "pair", ["is missing"]),
    (["hydra/launcher=slurmm"], "hydra/launcher", ["basic"]),
    # keys
    (["optimizer.lrr=1"], "optimizer.lrr", ["did you mean optimizer.lr?"]),
    (["+optimizer.lrr=1"], "optimizer.lrr", ["did you mean optimizer.lr?"]),
    (["++trainer.epoch=3"], "trainer.epoch", ["did you mean trainer.epochs?"]),
    (["lr=0.1"], "lr", ["no such setting"]),
    (["optimizer.dampening=0.1"], "optimizer.dampening", ["+optimizer.dampening"]),
    (["+optimizer.lr=0.2"], "optimizer.lr", ["without the +"]),
    (["~optimizer.lrr"], "optimizer.lrr", ["did you mean optimizer.lr?"]),
    (["~trainer.epochs"], "trainer.epochs", ["is missing"]),
    (["loss.mutual_contrastive.tempreature=1"], "loss.mutual_contrastive.tempreature", ["contrastive.temperature?"]),
    (["+loss.mutual_contrastive.tempreature=1"], "loss.mutual_contrastive.tempreature", ["contrastive.temperature?"]),
    (["+loss.mutual_contrastive.widths=[1,2]"], "loss.mutual_contrastive.widths", ["set by the program"]),
    (["+pair.peers.a.num_classes=3"], "pair.peers.a.num_classes", ["set by the program"]),
    (["+optimizer.params=[]"], "optimizer.params", ["set by the program"]),
    (["+optimizer._partial_=true"], "optimizer._partial_", ["remove it"]),
    (["~pair.peers.a.blocks"], "pair.peers.a.blocks", ["needs a value"]),
    (["hydra.rundir=x"], "hydra.rundir", ["did you mean hydra.run?"]),
    # types and ranges
    (["optimizer.lr=-1"], "optimizer.lr", ["must be a number > 0"]),
    (["optimizer.lr=0"], "optimizer.lr", ["> 0"]),
    (["optimizer.lr=nan"], "optimizer.lr", ["finite"]),
    (["optimizer.lr=inf"], "optimizer.lr", ["finite"]),
    (["optimizer.lr=fast"], "optimizer.lr", ["must be a number"]),
    (["optimizer.lr='1e-1'"], "optimizer.lr", ["must be a number"]),
    (["optimizer.lr="], "optimizer.lr", ["must be a number"]),
    (["optimizer.lr=null"], "optimizer.lr", ["must be a number"]),
    (["optimizer.lr=true"], "optimizer.lr", ["must be a number"]),
    (["optimizer.lr={a: 1}"], "optimizer.lr", ["must be a number"]),
    (["optimizer.momentum=1"], "optimizer.momentum", ["[0, 1)"]),
    (["optimizer.momentum=0"], "optimizer.nesterov", ["optimizer.momentum > 0"]),
    (["optimizer=adamw", "optimizer.betas=[0.9]"], "optimizer.betas", ["a list of 2 numbers in [0, 1)"]),
    (["trainer.epochs=0"], "trainer.epochs", ["an integer >= 1"]),
    (["trainer.epochs=1.5"], "trainer.epochs", ["an integer >= 1"]),
    (["trainer.max_steps=0"], "trainer.max_steps", [">= 1 or null"]),
    (["trainer.precision=fp16"], "trainer.precision", ["float32, tf32, bf16"]),
    (["trainer.precision=tf32", "trainer=cpu"], "trainer.precision", ["trainer.device=cuda"]),
    (["trainer.device=gpu"], "trainer.device", ["auto, cpu, cuda"]),
    (["trainer.deterministic=1"], "trainer.deterministic", ["true or false"]),
    (["data.batch_size=1"], "data.batch_size", ["an integer >= 2"]),
    (["data.batch_size=many"], "data.batch_size", ["an integer >= 2"]),
    (["data.validation=1"], "data.validation", ["[0, 1)"]),
    (["data.mean=[0.5]"], "data.mean", ["a list of 3 numbers"]),
    (["data.std=[0.2,0.2,0]"], "data.std", ["> 0"]),
    (["data=imagefolder"], "data.root", ["needs a value", "data.root=PATH"]),
    (["~data.root"], "data.root", ["+data.root=PATH"]),
    (["data.root=3"], "data.root", ["a string"]),
    (["data.name="], "data.name", ["not empty"]),
    (["tracking.uri="], "tracking.uri", ["not empty", "or null"]),
    (["task=evaluate"], "task.checkpoint", ["needs a value"]),
    (["seed=-1"], "seed", ["an integer"]),
    (["seed=4294967296"], "seed", ["an integer"]),
    (["seed=1.0"], "seed", ["an integer"]),
    (["config_version=2"], "config_version", ["newer than this code"]),
    (["loss.mutual_contrastive.temperature=0"], "loss.mutual_contrastive.temperature", ["> 0"]),
    (["loss.logit_distillation.temperature=0"], "loss.logit_distillation.temperature", ["> 0"]),
    (["loss.mutual_contrastive.icl=-0.1"], "loss.mutual_contrastive.icl", [">= 0"]),
    (["loss.meta_event.every=0"], "loss.meta_event.every", [">= 1"]),
    (["loss.branches=maybe"], "loss.branches", ["true or false"]),
    (["pair.peers.a.block=fancy"], "pair.peers.a.block", ["basic, bottleneck"]),
    (["pair=wrn_16_2", "pair.peers.a.widen_factor=0"], "pair.peers.a.widen_factor", ["an integer >= 1"]),
    (["pair=hcgnet_a1", "pair.peers.a.growth=[12,24,3]"], "pair.peers.a.growth", ["a list of integers >= 4"]),
    (["pair.peers.a.blocks=5"], "pair.peers.a.blocks", ["a list of integers >= 1"]),
    (["+pair.peers.a-b=3"], "pair.peers", ["a mapping"]),
    (["schedule.warmup_epochs=301"], "schedule.warmup_epochs", ["trainer.epochs=300"]),
    (["schedule=multistep", "schedule.milestones=[0]"], "schedule.milestones", [">= 1"]),
    (["tracking.wait=-1"], "tracking.wait", [">= 0"]),
    (["~pair.peers.a.name"], "pair.peers.a.name", ["is missing"]),
    (["++pair.extra=1"], "pair.extra", ["no such setting"]),
    # what does not go together
    (["pair=single/resnet8"], "pair", ["needs 2 peers"]),
    (["~network@pair.peers.b"], "pair", ["needs 2 peers"]),
    (["loss.aggregator=null"], "loss.aggregator", ["loss.logit_distillation=null"]),
    (["loss=baseline", "loss.classification=null"], "loss", ["at least one term"]),
    # targets
    (["optimizer._target_=torch.load"], "optimizer._target_", ["not allowed", "torch.optim"]),
    (["loss.classification._target_=os.system"], "loss.classification._target_", ["not allowed"]),
    (["+loss.extra={_target_: torch.hub.load}"], "loss.extra._target_", ["not allowed"]),
    (["+data.augmentation.deep=[{_target_: os.system}]"], "data.augmentation.deep.0._target_", ["not allowed"]),
    (["+hydra.callbacks.x._target_=os.system"], "hydra.callbacks.x._target_", ["not allowed"]),
    (["task._target_=mcl_lab.networks.resnet.ResNet"], "task._target_", ["mcl_lab.tasks"]),
    (["data.images._target_=mcl_lab.tasks.train.train"], "data.images._target_", ["not allowed"]),
    (["optimizer._target_=torch.optim.SDG"], "optimizer._target_", ["did you mean torch.optim.SGD?"]),
    (["~loss.classification._target_"], "loss.classification._target_", ["is missing"]),
    # interpolations
    (["optimizer.lr=${nowhere}"], "optimizer.lr", ["nowhere"]),
    (["seed=${seed}"], "seed", ["ecursive"]),
    (["loss.name=${oc.env:HOME}"], "loss.name", ["oc.env is allowed only in"]),
    (["data.root=${oc.env:NOT_SET_ANYWHERE}"], "data", ["NOT_SET_ANYWHERE"]),
    (["hydra.run.dir=${nowhere}"], "hydra.run.dir", ["nowhere"]),
    (["hydra.run.dir="], "hydra.run.dir", ["folder"]),
    (["hydra.run.dir=???"], "hydra.run.dir", ["folder"]),
    # what cannot be read
    (["optimizer.lr"], "optimizer.lr", ["KEY=VALUE"]),
    (["optimizer.lr=[1"], "optimizer.lr", ["quote"]),
    (["=3"], "=3", ["KEY=VALUE"]),
    (["optimizer.lr=foo(1)"], "optimizer.lr", ["foo"]),
    (["hello world"], "hello world", ["KEY=VALUE"]),
    (["--epochs=3"], "command line", ["--epochs=3", "--hydra-help"]),
    (["--cfg", "jobb"], "command line", ["job"]),
    (["--cfg", "job", "optimizer.lrr=1"], "optimizer.lrr", ["did you mean optimizer.lr?"]),
    (["--package", "optimizer"], "--package", ["--cfg"]),
    (["--config-name", "other"], "--config-name", ["--config-dir"]),
    (["--config-dir", "nowhere"], "--config-dir", ["nowhere", "folder"]),
    # several runs
    (["seed=0,1"], "seed", ["--multirun"]),
    (["seed=0,-1", "-m"], "seed", ["an integer"]),
    (["pair=resnet8,resnet33", "-m"], "pair", ["did you mean resnet32?"]),
    (["seed=interval(0,1)", "-m"], "seed", ["range"]),
    (["pair=glob(vgg*)", "-m"], "pair", ["no option matches"]),
    (["+sweeps=homogenous"], "sweeps", ["did you mean homogeneous?", "paper"]),
    (["+sweeps=smoke", "seed=0,x"], "seed", ["an integer"]),
    (["+sweeps=smoke", "--cfg", "job"], "sweeps", ["--cfg"]),
    (["seed=0,1", "-m", "hydra/launcher=basic"], "hydra/launcher", ["local"]),
    (["seed=0,1", "-m", "hydra.launcher.jobs=0"], "hydra.launcher.jobs", [">= 1"]),
    (["seed=0,1", "-m", "hydra.launcher.job=2"], "hydra.launcher.job", ["did you mean hydra.launcher.jobs?"]),
    (["seed=0,1", "-m", "hydra.run.dir=here"], "hydra.run.dir", ["several runs", "${run_name:}"]),
    (["seed=0,1", "-m", "trainer.device=cuda:1"], "trainer.device", ["hydra.launcher.gpus"]),
    (["seed=0,1", "-m", "sweep=a b"], "sweep", ["letters"]),
    (["tracking=none,mlflow", "-m"], "tracking", ["same"]),
    (["sweep=a,b", "-m"], "sweep", ["same"]),
    (["trainer.threads=1,2", "-m"], "--multirun", ["trainer.threads: 1 -> 2"]),
    (["seed=0,99999999999999999999", "-m"], "seed", ["an integer"]),
    (["hydra.mode=MULTIRUN"], "hydra.mode", ["-m"]),
    (["++hydra.mode=MULTIRUN"], "hydra.mode", ["-m"]),
    (["+hydra.sweeper.params.seed='1,2'", "-m"], "hydra.sweeper", ["sweep file"]),
    (["hydra.sweeper=true"], "hydra.sweeper", ["sweep file"]),
    (["hydra.launcher=true"], "hydra.launcher", ["mapping"]),
    (["-m", "seed=0,1", "hydra.launcher=true"], "hydra.launcher", ["mapping"]),
    (["-m", "seed=0,1", "~hydra.launcher"], "config", ["~hydra.launcher"]),
    (["hydra.sweep.dir=x", "-m"], "hydra.sweep", ["hydra.run.dir"]),
    (["hydra.sweep.subdir=x", "-m"], "hydra.sweep", ["hydra.run.dir"]),
    (["-m", "hydra.launcher.gpus=[]"], "hydra.launcher.gpus", ["numbers"]),
    (["-m", "hydra.launcher.gpus=[0,0]"], "hydra.launcher.gpus", ["different"]),
    (["task=sweep", "task.sweep=nowhere"], "task.sweep", ["nowhere"]),
    (["--multirun", "--cfg", "job"], "command line", ["more than one"]),
    # folders of runs
    (["resume=nowhere"], "resume", ["nowhere", "the folder of a run"]),
    (["resume=3"], "resume", ["a string"]),
    (["resume="], "resume", ["not empty"]),
    (["resume=.", "-m"], "resume", ["config.yaml"]),
]


# What only the second stage can know, with torch but before anything is written.
WRONG_LATER = [
    (["trainer.device=cuda:99", "data=digits"], "trainer.device", ["cuda:99", "cpu"]),
    (["data=digits", "data.batch_size=5000"], "data.batch_size", ["1437"]),
    (["data=digits", "data.images.size=0"], "data.images.size", ["8"]),
    (["data=digits", "pair.peers.a.blocks=[]"], "pair.peers.a", []),
    (["data=digits", "pair=wrn_16_2", "pair.peers.b.depth=17"], "pair.peers.b", ["6 n + 4", "17"]),
    (["data=digits", "network@pair.peers.b=torchvision_resnet18", "pair.peers.b.model=x"], "pair.peers.b", ["has no"]),
    (["data=imagefolder", "data.root=nowhere"], "data.root", ["nowhere"]),
    (["data=imagefolder", "data.root=empty"], "data", ["empty"]),
    (["data=imagefolder", "data.root=one_class"], "data", ["class"]),
    (["task=evaluate", "task.checkpoint=nowhere"], "task.checkpoint", ["nowhere"]),
    (["task=evaluate", "task.checkpoint=empty"], "task.checkpoint", ["empty"]),
]


def check_line(error, key, words):
    assert error.startswith(f"mcl_lab: error: {key}"), error
    assert error.count("\n") == 1 and error.endswith("\n"), error
    assert error[len("mcl_lab: error: ") + len(key)] in ":.", error  # the key or one below it, no longer word
    for word in words:
        assert word in error


@pytest.mark.parametrize(("arguments", "key", "words"), WRONG, ids=[" ".join(row[0]) for row in WRONG])
def test_wrong(arguments, key, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert run.main(arguments) == 2
    out, error = capsys.readouterr()
    check_line(error, key, words)
    assert out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "key", "words"), WRONG_LATER, ids=[" ".join(row[0]) for row in WRONG_LATER])
def test_wrong_at_the_second_stage(arguments, key, words, tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for part in ("train", "test"):
        Path("one_class", part, "cats").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(Path("one_class", part, "cats", "1.png"))
    before = sorted(Path().rglob("*"))
    assert run.main(arguments) == 2
    check_line(capsys.readouterr().err, key, words)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(("arguments", "key", "words"), WRONG[::10])
def test_wrong_in_a_process_of_its_own(arguments, key, words, tmp_path):
    done = subprocess.run([sys.executable, run.__file__, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    check_line(done.stderr, key, words)
    assert done.stdout == "" and not list(tmp_path.iterdir())


def test_wrong_is_said_before_torch_is_imported(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(run.__file__)!r}); import run\n"
        "status = run.main(['optimizer.lr=-1'])\n"
        "print(status, [name for name in ('torch', 'mlflow', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "2 []\n"


@pytest.mark.full
def test_wrong_is_said_within_a_second(tmp_path):
    def seconds():
        start = time.perf_counter()
        subprocess.run([sys.executable, run.__file__, "optimizer.lr=-1"], cwd=tmp_path, capture_output=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 1


def test_a_file_that_is_no_yaml(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/broken.yaml").write_text("# @package _global_\nseed: [1\n")
    assert run.main(["--config-dir=mine", "experiment=broken"]) == 2
    error = capsys.readouterr().err
    assert "broken.yaml" in error and error.count("\n") == 1
    assert sorted(Path().iterdir()) == [Path("mine")]
