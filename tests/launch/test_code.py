"""Snapshots of the code: what is in them, and that they say which commit they are of."""

import json
import subprocess
import sys

import pytest

from mcl_lab.launch.code import commit_of, take_snapshot


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
    assert len(list((tmp_path / "code").iterdir())) == 2
