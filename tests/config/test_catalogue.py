"""What there is to choose from, as --help and task=list show it: what the files say, all of it, on a screen."""

import json
import os
import re
import shlex
import subprocess
import sys
import time

import pytest
import yaml
from training_runs import RUN, heavy_imports

from mcl_lab import cli
from mcl_lab.config.catalogue import GROUPS, HIDDEN, catalogue, default_options, first_line, kind_of_pair
from mcl_lab.config.compose import CONF
from mcl_lab.config.sweeps import SWEEPS, expand
from mcl_lab.terminal.help import help_text

FILES = sorted([*CONF.rglob("*.yaml"), *SWEEPS.glob("*.yaml")])


def examples() -> list[list[str]]:
    """The arguments of the commands in the help; what stands beside a command is apart from it in its column."""
    top = [line for line in help_text().splitlines() if line.startswith("  python run.py ")]
    column = min(len(re.match(r"  \S.*? {2,}", line)[0]) for line in top if re.match(r"  \S.*? {2,}", line))
    return [shlex.split(line[:column])[2:] for line in top]


@pytest.fixture
def own_folder(tmp_path):
    """A folder for --config-dir: options of several groups, one of them of a taken name, sweeps, and no options."""
    contents = {
        "network/plain.yaml": "# Three plain layers.\nname: plain\n",
        "loss/lmcl.yaml": "# Another one.\n",
        "pair/deep/three.yaml": "# @package pair\n# Three ResNet-8.\ndefaults:\n"
        + "".join(f"  - /network@peers.{name}: resnet8\n" for name in "abc"),
        "hydra/launcher/site.yaml": "# \x1b[31mOur site's.\ndefaults: [slurm]\n",
        "sweeps/mine.yaml": "# Seeds.\nrows:\n  - {seed: [0, 1, 2], pair: [resnet8, deep/three]}\n",
        "sweeps/broken.yaml": "rows: [",
        "schedule/no_yaml.yaml": "]",
        "data/silent.yaml": "name: silent\n",
        "elsewhere/x.yaml": "# No group.\n",
        "config.yaml": "# Nor an option.\n",
    }
    for name, text in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    os.mkfifo(tmp_path / "task_pipe")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "pipe.yaml").symlink_to(tmp_path / "task_pipe")
    return tmp_path


@pytest.fixture
def listed(capsys):
    """listed(*arguments): what task=list prints as JSON."""

    def call(*arguments):
        assert cli.main(["task=list", "task.format=json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    return call


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_shipped_file_begins_with_a_line_on_it(file):
    line = first_line(file.read_text(encoding="utf-8"))
    assert len(line) > 5 and line.endswith((".", "?"))


def test_every_folder_of_options_is_a_group():
    folders = {file.relative_to(CONF).parent.as_posix() for file in CONF.rglob("*.yaml")} - {".", "pair/single"}
    assert folders == GROUPS.keys() - {"sweeps"}
    assert default_options().keys() <= GROUPS.keys() | {"hydra/job_logging", "hydra/hydra_logging"}


def test_help_fits_a_screen_and_names_every_group():
    lines = help_text().splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    for group, what in GROUPS.items():
        assert any(line.startswith(f"{group} ") and (what in line or group == "pair") for line in lines), group
    for group, default in default_options().items():
        assert group not in GROUPS or f" {default}*" in help_text()


def test_help_abbreviates_with_the_count():
    assert f"... ({len(list((CONF / 'network').glob('*.yaml')))})" in help_text()
    assert f"... ({len(list((CONF / 'pair/single').glob('*.yaml')))})" in help_text()


@pytest.mark.parametrize("arguments", examples(), ids=" ".join)
def test_the_commands_in_the_help_are_right(arguments):
    flags = cli.parse(arguments)
    names, others = cli.split_names(flags.overrides)
    configs = cli.all_checked(expand(names, others))
    assert len(configs) == {"-m": 6, "+sweeps=paper": 27}.get(arguments[0], 1)


def test_the_help_of_a_process_takes_no_time_and_no_torch(tmp_path):
    def seconds(*command):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == ""
        return time.perf_counter() - start, done.stdout

    seconds_taken, shown = min(seconds(RUN, "--help", "no.such=key") for _ in range(3))
    assert shown == f"{help_text()}\n" and not list(tmp_path.iterdir())
    assert seconds_taken < min(seconds("-c", "import hydra") for _ in range(3))[0] + 0.5


def test_help_shows_options_of_ones_own(own_folder, capsys):
    assert cli.main(["--help", f"--config-dir={own_folder}"]) == 0
    shown = capsys.readouterr().out
    for name in ("plain+", "deep/three+", "site+", "mine+", "+ is from --config-dir"):
        assert name in shown
    assert "elsewhere" not in shown and "pipe" not in shown


def test_the_list_has_every_option_once(listed):
    found = listed()
    assert list(found) == list(GROUPS)
    names = [(group, one["option"]) for group, options in found.items() for one in options]
    files = [(SWEEPS.parent if group == "sweeps" else CONF) / group / f"{name}.yaml" for group, name in names]
    assert sorted(files) == sorted(set(FILES) - {CONF / "config.yaml", CONF / "hydra_defaults.yaml"})
    for (group, name), file in zip(names, files, strict=True):
        (one,) = [one for one in found[group] if one["option"] == name]
        assert one["line"] in file.read_text(encoding="utf-8") and one["config_dir"] is None
        assert one["default"] == (default_options().get(group) == name)
    runs = {one["option"]: one["runs"] for one in found["sweeps"]}
    assert runs == {option.name: len(expand([option.name], [])) for option in catalogue()["sweeps"]}


def test_the_kind_of_a_pair_is_that_of_its_peers(listed):
    for one in listed("task.group=pair")["pair"]:
        peers = cli.compose([f"pair={one['option']}"]).pair.peers
        distinct = {peer.name for peer in peers.values()}
        kind = "single" if len(peers) == 1 else "homogeneous" if len(distinct) == 1 else "heterogeneous"
        assert one["kind"] == kind


def test_the_list_has_options_of_ones_own(own_folder, listed):
    found = listed(f"--config-dir={own_folder}")
    own = {f"{group}/{one['option']}": one for group, options in found.items() for one in options if one["config_dir"]}
    assert {one["config_dir"] for one in own.values()} == {str(own_folder)}
    assert {name: one["line"] for name, one in own.items()} == {
        "network/plain": "Three plain layers.",
        "loss/lmcl": HIDDEN,
        "pair/deep/three": "Three ResNet-8.",
        "hydra/launcher/site": "\x1b[31mOur site's.",
        "sweeps/mine": "Seeds.",
        "sweeps/broken": "",
        "schedule/no_yaml": "",
        "data/silent": "",
    }
    assert not own["loss/lmcl"]["default"] and own["pair/deep/three"]["kind"] == "homogeneous"
    assert (own["sweeps/mine"]["runs"], own["sweeps/broken"]["runs"]) == (6, None)


def test_a_table_of_one_group(own_folder, capsys):
    assert cli.main(["task=list", "task.group=hydra/launcher", f"--config-dir={own_folder}"]) == 0
    shown = capsys.readouterr().out
    assert "local *" in shown and "slurm_cpu" in shown
    assert f"(in{own_folder})" in "".join(shown.split())  # a long one is folded
    assert "\x1b" not in shown and "Our site's." in shown and "lmcl" not in shown


def test_the_house_itself_as_config_dir_is_listed_once(listed):
    assert listed(f"--config-dir={CONF.parent}") == listed(f"--config-dir={CONF}") == listed()


def test_no_torch_for_a_list(tmp_path):
    assert heavy_imports(["task=list", "task.group=loss"], tmp_path).splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# @package _global_\n# python run.py x=y\n#\n# What it is.\n# And more.\na: 1", "What it is."),
        ("a: 1\n# Too late.", ""),
        ("", ""),
    ],
)
def test_the_line_of_a_file(text, line):
    assert first_line(text) == line


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"peers": {"a": {"name": "x"}, "b": {"name": "x"}}}, "homogeneous"),
        ({"defaults": [{"/network@peers.a": "x"}], "peers": {"b": {"name": "y"}}}, "heterogeneous"),
        ({"defaults": ["resnet8"]}, ""),
        ({"defaults": 3}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_kinds_of_other_files(content, kind, tmp_path):
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(content))
    assert kind_of_pair(tmp_path / "pair.yaml") == kind
