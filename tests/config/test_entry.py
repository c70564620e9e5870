"""run.py with right input: the task is called with its config and options, and its end becomes the exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import RUN

from mcl_lab import cli
from mcl_lab.config.compose import run_folder
from mcl_lab.config.stored import read_config

RECORD = ["task._target_=stand_in_tasks.record", "pair=resnet8", "data=digits"]


def test_task_gets_config_and_options(calls, empty_folder):
    assert cli.main([*RECORD, "+task.label=x", "seed=5"]) == 0
    [(config, label)] = calls
    assert label == "x" and config.seed == 5 and config.trainer.epochs == 300
    assert run_folder(config).parts[0] == "runs" and (run_folder(config) / "config.yaml").is_file()


def test_resume_calls_with_the_stored_config(calls, empty_folder):
    assert cli.main([*RECORD, "seed=5", "optimizer.lr=0.2", "hydra.run.dir=here"]) == 0
    assert cli.main(["resume=here", "trainer.threads=1"]) == 0
    config, _ = calls[1]
    assert (config.seed, config.optimizer.lr, config.trainer.threads) == (5, 0.2, 1)
    assert run_folder(config) == Path("here")


def test_multirun_gives_each_run_the_folder_it_has_alone(calls, empty_folder):
    assert cli.main([*RECORD, "seed=0,1", "optimizer.lr=0.1,0.2", "-m"]) == 0
    assert [(config.seed, config.optimizer.lr) for config, _ in calls] == [(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]
    several = [run_folder(config) for config, _ in calls]
    assert sorted(Path("runs").iterdir()) == sorted(several)
    assert cli.main([*RECORD, "seed=1", "optimizer.lr=0.2"]) == 0
    assert run_folder(calls[-1][0]) == several[-1]
    assert sorted(Path().iterdir()) == [Path("runs")]


def test_one_failing_run_does_not_end_a_multirun_but_shows_in_its_status(calls, empty_folder, capsys):
    assert cli.main([*RECORD, "+task.fail=run,null", "-m"]) == 1
    assert len(calls) == 2
    assert "the loss is NaN" in capsys.readouterr().err


def test_a_signal_ends_a_multirun(calls, empty_folder):
    assert cli.main([*RECORD, "+task.fail=signal,null", "-m"]) == 143
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("fail", "status", "line"),
    [
        ("input", 2, "mcl_lab: error: task.label: refused here\n"),
        ("run", 1, "mcl_lab: error: the loss is NaN\n"),
        ("signal", 143, "mcl_lab: stopped: stopped\n"),
        ("keyboard", 130, "mcl_lab: interrupted\n"),
    ],
)
def test_exit_status_and_one_line(calls, empty_folder, capsys, fail, status, line):
    assert cli.main([*RECORD, f"+task.fail={fail}"]) == status
    assert capsys.readouterr().err == line


def test_a_bug_shows(calls, empty_folder):
    with pytest.raises(ZeroDivisionError):
        cli.main([*RECORD, "+task.fail=bug"])


def test_what_a_constructor_refuses_is_wrong_input(calls, empty_folder, capsys, monkeypatch):
    import hydra
    import stand_in_tasks

    def refuse(config, **options):
        hydra.utils.instantiate({"_target_": "mcl_lab.data.datasets.digits", "size": 0})

    monkeypatch.setattr(stand_in_tasks, "record", refuse)
    assert cli.main(RECORD) == 2
    assert capsys.readouterr().err.startswith("mcl_lab: error: data.images.size: ")


def test_extra_folder_of_options(calls, empty_folder):
    Path("mine/network").mkdir(parents=True)
    Path("mine/network/tiny.yaml").write_text(
        "name: tiny\n_target_: mcl_lab.networks.resnet.ResNet\nblock: basic\nblocks: [1]\nwidths: [8]\n"
    )
    typed = [*RECORD, "--config-dir", "mine", "network@pair.peers.b=tiny"]
    assert cli.main(typed) == 0 and cli.main([*typed, "-m"]) == 0
    assert [config.pair.peers.b.name for config, _ in calls] == ["tiny", "tiny"]
    assert read_config(run_folder(calls[0][0]), "resume").pair.peers.b.widths == [8]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--cfg", "job", "--package", "optimizer"], "lr: 0.1"),
        (["--cfg", "job", "optimizer.lr=0.5"], "lr: 0.5"),
        (["--help"], "resnet32_resnet110"),
        (["--hydra-help"], "--multirun"),
        (["--info", "searchpath"], "conf"),
    ],
)
def test_hydras_own_questions(empty_folder, argv, words):
    done = subprocess.run([sys.executable, RUN, *argv], capture_output=True, text=True)
    assert done.returncode == 0 and words in done.stdout, done.stderr
    assert not list(empty_folder.iterdir())


INSTALL = 'eval "$(python run.py --shell-completion install=bash)"'  # in README
TAB = """
COMP_LINE="python run.py $1"
read -ra typed <<< "$COMP_LINE"
COMP_CWORD=$((${#typed[@]} - 1))
COMP_POINT=${#COMP_LINE}
hydra_bash_completion
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("pair=resnet32", "pair=resnet32\npair=resnet32_resnet110\n"),
        ("loss=dml optimizer.nest", "optimizer.nesterov=\n"),
        ("loss=dml optimizer.lr=[", "\n"),
        ("--no-such-flag pair=", "\n"),
    ],
)
def test_tab_in_bash(typed, offered):
    assert f"`{INSTALL}`" in (RUN.parent / "README.md").read_text(encoding="utf-8")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", INSTALL + TAB, "bash", typed],
        cwd=RUN.parent,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (offered, "")


def test_called_from_another_folder_without_torch_or_mlflow(stand_in, empty_folder):
    folder = RUN.parent
    code = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(stand_in)!r}]; from mcl_lab import cli; "
        f"status = cli.main({RECORD!r}); print(status, [name for name in ('torch', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "0 []\n", done.stderr
    assert (empty_folder / "runs").is_dir()
