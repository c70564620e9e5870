"""Snapshots of the code: what is in them, and that they say which commit they are of."""

import json
import subprocess
import sys
from functools import partial

import pytest

from mcl_lab.host.secrets import without_credentials
from mcl_lab.runs.code import CHANGES, CONFIG_DIR, commit_of
from mcl_lab.runs.code import take_snapshot as take

take_snapshot = partial(take, clean=without_credentials)


@pytest.fixture
def house(tmp_path):
    house = tmp_path / "house"
    for name, text in {
        "run.py": "print('run')",
        "conf/config.yaml": "a: 1",
        "mcl_lab/x.py": "x = 1",
        "mcl_lab/__pycache__/x.pyc": "",
        "README.md": "not needed",
    }.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(text)
    return house


def git(house, *words):
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(house), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_a_run_needs_and_nothing_else(house, tmp_path, monkeypatch):
    plugins = tmp_path / "plugins"
    for name in ("mine/nets.py", "mine/data/x.txt", "alone.py"):
        (plugins / name).parent.mkdir(parents=True, exist_ok=True)
        (plugins / name).write_text(name)
    monkeypatch.syspath_prepend(str(plugins))
    config_dir = tmp_path / "my conf"
    (config_dir / "network").mkdir(parents=True)
    (config_dir / "network" / "plain.yaml").write_text("name: plain")

    names = ["mine.nets", "alone", "yaml", "not_there"]  # yaml is installed, and stays where it is
    folder = take_snapshot(house, tmp_path / "code", plugins=names, config_dir=config_dir)
    assert files(folder) == {
        "run.py": "print('run')",
        "conf/config.yaml": "a: 1",
        "mcl_lab/x.py": "x = 1",
        "mine/nets.py": "mine/nets.py",
        "mine/data/x.txt": "mine/data/x.txt",
        "alone.py": "alone.py",
        "config_dir/network/plain.yaml": "name: plain",
        "snapshot.json": '{"commit": "unknown"}\n',
        "changes.diff": "",
    }
    assert "mine" not in sys.modules and "alone" not in sys.modules


def test_the_commit_and_what_differs_from_it(house, tmp_path):
    (house / ".gitignore").write_text("__pycache__\n")
    git(house, "init", "-q")
    git(house, "add", ".")
    git(house, "commit", "-qm", "first")
    commit = git(house, "rev-parse", "HEAD")
    assert commit_of(house) == commit
    clean = take_snapshot(house, tmp_path / "code")
    assert commit_of(clean) == commit and (clean / "changes.diff").read_text() == ""

    (house / "mcl_lab" / "x.py").write_text("x = 2")
    (house / "mcl_lab" / "new.py").write_text("n = 3")
    assert commit_of(house) == f"{commit}+changes"
    changed = take_snapshot(house, tmp_path / "code")
    diff = (changed / "changes.diff").read_text()
    assert "-x = 1" in diff and "+x = 2" in diff and "+n = 3" in diff
    assert json.loads((changed / "snapshot.json").read_text()) == {"commit": f"{commit}+changes"}
    # Going back brings the first snapshot, which nothing has changed.
    (house / "mcl_lab" / "x.py").write_text("x = 1")
    (house / "mcl_lab" / "new.py").unlink()
    assert take_snapshot(house, tmp_path / "code") == clean
    assert (clean / "mcl_lab" / "x.py").read_text() == "x = 1"
    (clean / "mcl_lab" / "__pycache__").mkdir()  # a job has run from it
    (clean / "mcl_lab" / "__pycache__" / "x.pyc").touch()
    assert take_snapshot(house, tmp_path / "code") == clean
    # One that somebody has edited stays what jobs were submitted with, and is not taken for this code.
    (clean / "mcl_lab" / "x.py").write_text("x = 99")
    again = take_snapshot(house, tmp_path / "code")
    assert again != clean and (again / "mcl_lab" / "x.py").read_text() == "x = 1"
    assert len(list((tmp_path / "code").iterdir())) == 3


@pytest.fixture
def checkout(tmp_path):
    house = tmp_path / "house"
    (house / "conf").mkdir(parents=True)
    (house / "run.py").write_text("pass\n")
    (house / "conf" / "mine.yaml").write_text("uri: http://me:secret@host:5000\nä: 1\n", encoding="utf-8")
    git = ["git", "-C", str(house), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "run.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    return house


def test_a_folder_of_configs_that_holds_the_sweeps_and_data(checkout, tmp_path):
    place = tmp_path / "place"
    for path in ("network/a.yaml", "data/images.bin", "data/facts.yaml"):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text("x: 1\n")
    snapshots = place / "runs" / "sweeps" / "one" / "code"
    first = take_snapshot(checkout, snapshots, config_dir=place)
    assert take_snapshot(checkout, snapshots, config_dir=place) == first  # it does not hold itself
    found = {str(path.relative_to(first / CONFIG_DIR)) for path in (first / CONFIG_DIR).rglob("*") if path.is_file()}
    assert found == {"network/a.yaml", "data/facts.yaml"}


def test_no_password_and_no_wider_rights(checkout, tmp_path):
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "mine.yaml").write_text("uri: http://me:secret@host:5000\n")
    for path in (extra / "mine.yaml", checkout / "conf" / "mine.yaml"):
        path.chmod(0o400)
    snapshot = take_snapshot(checkout, tmp_path / "code", config_dir=extra)
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    assert not [path for path in files if "secret" in path.read_text(encoding="utf-8")]
    assert "http://host:5000" in (snapshot / CONFIG_DIR / "mine.yaml").read_text()
    assert {path.stat().st_mode & 0o777 for path in files if path.suffix == ".yaml"} == {0o400}


def test_new_files_of_any_name_are_among_the_changes(checkout, tmp_path):
    (checkout / "conf" / 'größe "1".yaml').write_text("here: 1\n")
    (checkout / "run.py").write_text("pass\nchanged\n")
    changes = (take_snapshot(checkout, tmp_path / "code") / CHANGES).read_text()
    assert "+changed" in changes and "+here: 1" in changes
