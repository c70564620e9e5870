"""Wrong command lines: exit status 2, one line that names the setting and what would be right, nothing written."""

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from training_runs import RUN, heavy_imports
from wrong_commands import WRONG_COMMANDS, WRONG_LATER
from wrong_values import WRONG_VALUES

from mcl_lab import cli
from mcl_lab.config import schema
from mcl_lab.config.compose import CONF
from mcl_lab.config.plain import leaves

WRONG = WRONG_COMMANDS + WRONG_VALUES
PACKAGES = {
    "network": "pair.peers.a",
    "hydra/launcher": "hydra.launcher",
    "experiment": "",
    ".": "",
}  # of other groups: its name


def check_line(error, key, words):
    assert error.startswith(f"mcl_lab: error: {key}"), error
    assert error.endswith("\n") and error[:-1].isprintable() and len(error) < 2100, error
    assert error[len("mcl_lab: error: ") + len(key)] in ":.", error  # the key or one below it, no longer word
    for word in words:
        assert word in error


@pytest.mark.parametrize(("arguments", "key", "words"), WRONG, ids=map(str, range(len(WRONG))))
def test_wrong(arguments, key, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert cli.main(arguments) == 2
    out, error = capsys.readouterr()
    check_line(error, key, words)
    assert out == "" and not list(tmp_path.iterdir())


def every_key():
    """The leaves of all options of all groups, the first peer for all, and the fields of the schema."""
    sections = {"": "Config", "data.": "Data", "loss.": "Loss", "trainer.": "Trainer", "tracking.": "Tracking"}
    found = {
        f"{section}{field.name}"
        for section, name in (sections | {"pair.peers.a.": "Network"}).items()
        for field in dataclasses.fields(getattr(schema, name))
    }
    for file in CONF.rglob("*.yaml"):
        group = file.relative_to(CONF).parent.as_posix().removesuffix("/single")
        tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        own = {name: node for name, node in tree.items() if name not in ("defaults", "hydra")}
        package = PACKAGES.get(group, group)
        found |= {key for key, _ in leaves(own, f"{package}." if package else "")}
    return found


def test_each_key_has_a_wrong_example():
    named = {re.sub(r"^pair\.peers\.\w+", "pair.peers.a", key) for _, key, _ in WRONG + WRONG_LATER}
    assert sorted(every_key() - named) == []
    assert len(every_key()) > 100 and len(WRONG) > 300


@pytest.mark.parametrize(("arguments", "key", "words"), WRONG_LATER, ids=[" ".join(row[0]) for row in WRONG_LATER])
def test_wrong_at_the_second_stage(arguments, key, words, tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for part in ("train", "test"):
        Path("one_class", part, "cats").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(Path("one_class", part, "cats", "1.png"))
    before = sorted(Path().rglob("*"))
    assert cli.main(arguments) == 2
    check_line(capsys.readouterr().err, key, words)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "key", "words"), [row for row in WRONG if all(map(str.isprintable, row[0]))][::30]
)
def test_wrong_in_a_process_of_its_own(arguments, key, words, tmp_path):
    done = subprocess.run([sys.executable, RUN, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    check_line(done.stderr, key, words)
    assert done.stdout == "" and not list(tmp_path.iterdir())


def test_wrong_is_said_before_torch_is_imported(tmp_path):
    assert heavy_imports(["optimizer.lr=-1"], tmp_path) == "2 []\n"


@pytest.mark.full
def test_wrong_is_said_at_once(tmp_path):
    """In a second where `import hydra`, of which every machine takes its own time, takes a third of one."""

    def seconds(*command):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True)
        return time.perf_counter() - start

    said, imported = zip(
        *((seconds(RUN, "optimizer.lr=-1"), seconds("-c", "import hydra")) for _ in range(5)), strict=True
    )
    assert min(said) < 3 * min(imported)


def test_a_file_that_is_no_yaml(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/broken.yaml").write_text("# @package _global_\nseed: [1\n")
    assert cli.main(["--config-dir=mine", "experiment=broken"]) == 2
    error = capsys.readouterr().err
    assert "broken.yaml" in error and error.count("\n") == 1
    assert sorted(Path().iterdir()) == [Path("mine")]
