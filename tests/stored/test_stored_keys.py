"""No stored run is orphaned: command lines and stored configs have the keys, and so the folders, that they had."""

import json
import shutil
from pathlib import Path

import pytest
from keys import COMMANDS, CONFIGS, WHOLE, composed, known_by

from mcl_lab.config.compose import compose
from mcl_lab.config.differences import differences
from mcl_lab.config.identity import identity_of
from mcl_lab.config.stored import FILE_NAME, read_config, to_yaml

OF_PLUGIN = {  # run keys by `data.images.unreadable`
    "refuse": "6c9adf6a8ce12df116f991200cf82a39c8cbef4216002be5759afbbd777ea153",
    "skip": "1785b11943723b671fdf43914e8da17d15387dba2283b958c69fc3b32e7364d4",
}
STORED = json.loads(Path(__file__).with_name("keys.json").read_text())


def test_everything_is_stored():
    assert STORED.keys() == COMMANDS.keys()
    assert {path.stem for path in CONFIGS.iterdir()} == set(WHOLE)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_line(name):
    assert known_by(composed(name)) == STORED[name]


@pytest.fixture
def in_a_run_folder(tmp_path):
    """in_a_run_folder(name) -> a run folder with that stored config.yaml."""

    def put(name: str) -> Path:
        shutil.copy(CONFIGS / f"{name}.yaml", tmp_path / FILE_NAME)
        return tmp_path

    return put


@pytest.mark.parametrize("name", WHOLE)
def test_a_stored_config(name, in_a_run_folder):
    stored = read_config(in_a_run_folder(name), "resume")
    assert known_by(stored) == STORED[name]
    assert differences(identity_of(composed(name)).deciding, identity_of(stored).deciding) == []


@pytest.mark.parametrize("name", WHOLE)
def test_a_config_is_stored_as_it_was(name):
    """Key by key, in the same order; only what a class is called may change."""
    now, stored = to_yaml(composed(name), clean=str), (CONFIGS / f"{name}.yaml").read_text()
    assert without_targets(now) == without_targets(stored)


def without_targets(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.lstrip().startswith("_target_: mcl_lab.")]


def test_a_data_set_of_a_plugin(tmp_path, monkeypatch):
    """Its refusal of unreadable images is in no key, whatever its signature says; another choice is."""
    (tmp_path / "mine.py").write_text("def images(root, unreadable='refuse'): ...")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MCL_LAB_PLUGINS", "mine")
    for unreadable, key in OF_PLUGIN.items():
        images = ["data.images._target_=mine.images", f"+data.images.unreadable={unreadable}"]
        config = compose(["data=digits", "data.name=flowers", "~data.images.size", *images])
        assert identity_of(config).run_key == key, unreadable


def test_unequal_runs_have_unequal_keys():
    """Of all these command lines two are the paper's recipe, and two differ from the defaults in no number."""
    keys = {name: known["run_key"] for name, known in STORED.items()}
    same = {name for name, key in keys.items() if key == keys["defaults"]}
    assert same == {"defaults", "paper_cifar100", "settings_of_no_number"}
    assert len(set(keys.values())) == len(keys) - 2
