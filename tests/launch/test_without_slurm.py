"""The SLURM launcher where there is no SLURM, and sweeps that say what it cannot do: one line each, nothing is launched."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from training_runs import BASELINE, end, start

SWEEP = [*BASELINE, "tracking=none", "-m", "sweep=s", "seed=0,1"]


@pytest.fixture
def call(tmp_path):
    def call(*arguments):
        tools = tmp_path / "tools"
        tools.mkdir(exist_ok=True)
        environment = os.environ | {"PATH": f"{tools}{os.pathsep}{Path(sys.executable).parent}"}
        return end(start(arguments, tmp_path, env=environment))

    return call


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra/launcher=slurm"], "there is no sbatch here"),
        (["hydra/launcher=slurm", "hydra.launcher.dry_run=true"], "there is no sbatch here"),
        (["hydra/launcher=slurm", "hydra.launcher.time=10,20"], "hydra.launcher: must be the same"),
        (
            ["hydra/launcher=slurm", "hydra.launcher.time=2"],
            "hydra.launcher.warning: must be less than the 120 seconds",
        ),
        (["hydra/launcher=slurm", "hydra.launcher.time=0:01:59"], "less than the 119 seconds"),
        (["hydra/launcher=slurm_cpu", "trainer.device=cuda"], "hydra.launcher.gpus: must be 1 or more"),
        (["hydra/launcher=slurm", "hydra.launcher.gpus=many"], "hydra.launcher.gpus: must be a number"),
        (["hydra/launcher=slurm", 'hydra.launcher.sbatch=["--signal=USR1@5"]'], "--signal is set by the launcher"),
        (["hydra/launcher=slurm", "hydra.launcher.qos='a\necho b'"], "hydra.launcher.qos: must be in one line"),
        (["hydra/launcher=slurm", "hydra.launcher.memory=lots"], "hydra.launcher.memory: must be megabytes"),
        (["hydra/launcher=slurm_cpu", "hydra.launcher.runs_per_gpu=2"], "hydra.launcher.runs_per_gpu: needs"),
        (["hydra/launcher=slurm", "hydra.launcher.sbatch=[--parsable]"], "--parsable is set by the launcher"),
    ],
)
def test_refused(words, said, call, tmp_path):
    ended = call(*words, *SWEEP)
    assert ended.status == 2 and said in ended.err and len(ended.err.splitlines()) == 1, ended
    assert not (tmp_path / "runs").exists()


def test_other_tasks_are_not_submitted(call):
    ended = call("hydra/launcher=slurm", "task=summary", "pair=resnet8,resnet20", "-m")
    assert ended.status == 2 and "task=train alone" in ended.err and len(ended.err.splitlines()) == 1, ended


def test_one_run_is_not_trained_on_the_login_node(call, tmp_path):
    ended = call("hydra/launcher=slurm", *BASELINE, "tracking=none")
    assert ended.status == 2 and "--multirun" in ended.err and len(ended.err.splitlines()) == 1, ended
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def queued(call, tmp_path):
    """A sweep of which the ledger says that a job was submitted."""
    folder = tmp_path / "runs" / "sweeps" / "s"
    folder.mkdir(parents=True)
    run = {"folder": "runs/r", "run_key": "k", "pair": "p", "loss": "l", "dataset": "d", "seed": 0, "epochs": 1}
    attempt = {"pid": 0, "process_start": None, "host": "", "gpu": None, "started_ms": 1, "job": "12"}
    run |= {"uses_gpu": False, "log": "r.log", "attempts": [attempt]}
    launcher = {"settings": {}, "config_dir": None, "cwd": str(tmp_path)}
    (folder / "ledger.json").write_text(json.dumps({"format": 2, "launcher": launcher, "runs": [run]}))
    return folder


def test_cancel(call, queued):
    ended = call("task=sweep", "task.sweep=s", "task.action=cancel")
    assert ended.status == 2 and "there is no" in ended.err and len(ended.err.splitlines()) == 1, ended


def test_looked_at_from_elsewhere(queued, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ended = end(start(["task=sweep", f"task.sweep={queued}"], elsewhere))
    assert ended.status == 2 and f"was launched in {tmp_path}: go there" in ended.err, ended


def test_not_trained_here_while_nobody_knows_what_slurm_does(call, queued, tmp_path):
    ended = call(*BASELINE, "tracking=none", "-m", "sweep=s", "hydra.run.dir=runs/r")
    assert ended.status == 1 and "on a machine of the cluster" in ended.err, ended
    assert not (tmp_path / "runs" / "r").exists()


@pytest.fixture(scope="module")
def config_yaml(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    assert end(start([*BASELINE, "tracking=none", "trainer.max_steps=1", "hydra.run.dir=r"], folder)).status == 0
    return (folder / "r" / "config.yaml").read_text()


@pytest.fixture
def stored(queued, config_yaml):
    """stored(settings, **config): a sweep's folder as somebody may have left it for others to submit again."""

    def write(settings, **changes):
        config = yaml.safe_load(config_yaml) | changes
        (queued / "configs.json").write_text(json.dumps({"runs/r": yaml.safe_dump(config)}))
        ledger = json.loads((queued / "ledger.json").read_text())
        ledger["launcher"]["settings"] = settings
        (queued / "ledger.json").write_text(json.dumps(ledger))

    return write


SLURM = "mcl_lab.launch.slurm.SlurmLauncher"
WRITER = {"_target_": "mcl_lab.host.files.write_json", "path": "evil.json", "value": {"a": 1}}


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"_target_": SLURM, "partition": WRITER}, {}),
        (WRITER, {}),
        ({"_target_": "mcl_lab.launch.local.LocalLauncher"}, {}),
        ({"_target_": SLURM, "account": "${oc.env:HOME}"}, {}),
        ({"_target_": SLURM, "partition": "a\necho b"}, {}),
        ({"_target_": SLURM}, {"task": {"_target_": "mcl_lab.tasks.clean.clean", "runs": "runs", "delete": True}}),
    ],
)
def test_what_is_stored_is_checked_before_it_is_submitted_again(settings, changes, call, stored, tmp_path):
    stored(settings, **changes)
    ended = call("task=sweep", "task.sweep=s", "task.action=resubmit")
    assert ended.status == 2 and len(ended.err.splitlines()) == 1, ended
    assert not (tmp_path / "evil.json").exists()


def test_a_job_of_a_ledger_is_a_job(call, queued):
    text = (queued / "ledger.json").read_text()
    (queued / "ledger.json").write_text(text.replace('"12"', '"--me"'))
    ended = call("task=sweep", "task.sweep=s", "task.action=cancel")
    assert ended.status == 1 and "no job of SLURM" in ended.err and len(ended.err.splitlines()) == 1, ended
