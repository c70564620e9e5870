"""`~` in settings that are paths."""

import pytest
from omegaconf import OmegaConf

from mcl_lab import cli
from mcl_lab.config.compose import compose, run_folder
from mcl_lab.config.multirun import compose_several

TYPED = [
    ([], "hydra.run.dir"),
    ([], "resume"),
    ([], "sweep"),
    ([], "data.root"),
    (["task=evaluate"], "task.checkpoint"),
    (["task=export", "task.checkpoint=x"], "task.folder"),
    (["task=report"], "task.plots"),
    (["task=reproduce"], "task.run"),
    (["task=clean"], "task.runs"),
    (["task=sync"], "task.moved_from"),
]


@pytest.mark.parametrize(("beside", "key"), TYPED)
def test_every_path_may_begin_with_the_home_folder(beside, key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = [*beside, f"{key}='~/of mine/x'"]
    for config in (compose(words), *compose_several([words])):
        assert OmegaConf.select(config, key) == "/home/me/of mine/x"
    assert OmegaConf.select(compose([*beside, f"{key}='./~'"]), key) == "./~"


def test_lists_and_interpolations(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert compose(["task=sync", "task.runs=['~',runs]"]).task.runs == ["/home/me", "runs"]
    folder = run_folder(compose(["hydra.run.dir='~/runs/${run_name:}'"]))
    assert folder.parent.as_posix() == "/home/me/runs" and folder.name.startswith("resnet32-lmcl-s0-")


def test_a_run_is_begun_and_resumed_in_the_home_folder(calls, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    typed = ["task._target_=stand_in_tasks.record", "pair=resnet8", "data=digits"]
    assert cli.main([*typed, "hydra.run.dir='~/mine'"]) == 0
    assert cli.main(["resume='~/mine'"]) == 0
    assert [run_folder(config) for config, _ in calls] == 2 * [tmp_path / "home" / "mine"]
    assert not list((tmp_path / "work").iterdir())
