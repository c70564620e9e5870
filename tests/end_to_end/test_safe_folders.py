"""What a run refuses to touch, mix up or write down."""

import json
import signal

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from training_runs import BASELINE, LMCL, only_folder, stop_itself

from mcl_lab.assembly.learners import build_learners
from mcl_lab.config.compose import compose
from mcl_lab.config.identity import identity_of


def folder_of_images(root, shades) -> str:
    for part, count in (("train", 8), ("test", 2)):
        for name, shade in shades.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (shade + number, shade, number)).save(root / part / name / f"{number}.png")
    return str(root)


@pytest.mark.parametrize(
    ("shades", "named"), [({"fish": 10, "owl": 90}, "classes"), ({"cat": 11, "dog": 90}, "checksum")]
)
def test_a_run_does_not_go_on_with_other_images(shades, named, call, tmp_path, monkeypatch):
    first = folder_of_images(tmp_path / "first", {"cat": 10, "dog": 90})
    other = folder_of_images(tmp_path / "other", shades)
    words = [word for word in BASELINE if not word.startswith("data.")]
    words += ["data=imagefolder", "data.images.size=8", "data.batch_size=8", "tracking=none"]
    with monkeypatch.context() as patch:
        stop_itself(patch, 3, signal.SIGTERM)
        assert call(*words, f"data.root={first}").status == 128 + signal.SIGTERM
    refused = call(*words, f"data.root={other}")
    assert refused.status == 2 and refused.err.startswith("mcl_lab: error: data: ") and named in refused.err
    assert call(*words, f"data.root={first}").status == 0


def test_a_folder_with_other_files_is_no_run_folder(call, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    refused = call(*BASELINE, "tracking=none", "hydra.run.dir=.")
    assert refused.status == 2 and "hydra.run.dir" in refused.err and "thesis.tex" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_password_in_the_uri_is_written_nowhere(call, tmp_path):
    ended = call(*BASELINE, "tracking.uri=http://me:hunter2@127.0.0.1:1", "tracking.wait=0")
    assert ended.status == 0 and "hunter2" not in ended.out + ended.err
    for path in only_folder(tmp_path).rglob("*"):
        if path.suffix in (".json", ".yaml", ".jsonl", ".log"):
            assert "hunter2" not in path.read_text()


def test_a_finished_run_without_tracking_says_so(call, own_copy, baseline_run):
    own_copy(baseline_run)
    ended = call(*BASELINE)
    assert ended.status == 0 and "not recorded" in ended.out and "tracking=none" in ended.out


def test_foreign_results_beside_a_run_are_passed_over(call, own_copy, baseline_run, tmp_path):
    own_copy(baseline_run)
    for name, content in {"list": "[1, 2]", "other": '{"accuracy": 1}', "broken": "{"}.items():
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "result.json").write_text(content)
    assert call(*BASELINE, "tracking=none").status == 0


def test_result_says_what_was_trained(lmcl_run):
    result = json.loads((lmcl_run / "result.json").read_text())
    assert result["peers"]["a"]["own_head_last_epoch"] == result["final"]["final/a/own_head_last_epoch"]
    assert result["environment"]["torch"] == torch.__version__


def test_one_key_whatever_the_order_of_the_loss(call):
    one = compose([*LMCL])
    other = OmegaConf.create(OmegaConf.to_container(one, resolve=False, structured_config_mode=None))
    other.loss = OmegaConf.create(dict(reversed(OmegaConf.to_container(one.loss).items())))
    assert identity_of(one).run_key == identity_of(other).run_key
    states = []
    for config in (one, other):
        torch.manual_seed(0)
        states.append(build_learners(config, 10, torch.device("cpu")).objective.state_dict())
    assert list(states[0]) == list(states[1])
    assert all(a.equal(b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["+network@pair.peers.keys=resnet8"], "pair.peers.keys"),
        (["schedule._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "~schedule.warmup_epochs"], "schedule._target_"),
        (
            ["optimizer._target_=torch.optim.LBFGS"]
            + [f"~optimizer.{name}" for name in ("momentum", "nesterov", "weight_decay")],
            "optimizer._target_",
        ),
        (["pair.peers.a._target_=torchvision.models.resnet18"], "pair.peers.a"),
        (
            [f"~pair.peers.a.{name}" for name in ("block", "blocks", "widths")]
            + ["pair.peers.a._target_=torchvision.models.resnet18"],
            "pair.peers.a._target_",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(words, key, call, tmp_path):
    refused = call("experiment=quickstart", "tracking=none", *words)
    assert refused.status == 2 and refused.err.startswith(f"mcl_lab: error: {key}: ")
    assert not list(tmp_path.iterdir())
