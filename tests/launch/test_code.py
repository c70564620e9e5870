"""Snapshots of the code: what is in them, and what must not be."""

import subprocess

import pytest

from mcl_lab.launch.code import CHANGES, CONFIG_DIR, take_snapshot


@pytest.fixture
def house(tmp_path):
    house = tmp_path / "house"
    (house / "conf").mkdir(parents=True)
    (house / "run.py").write_text("pass\n")
    (house / "conf" / "mine.yaml").write_text("uri: http://me:secret@host:5000\nä: 1\n", encoding="utf-8")
    git = ["git", "-C", str(house), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "run.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    return house


def test_a_folder_of_configs_that_holds_the_sweeps_and_data(house, tmp_path):
    place = tmp_path / "place"
    for path in ("network/a.yaml", "data/images.bin", "data/facts.yaml"):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text("x: 1\n")
    snapshots = place / "runs" / "sweeps" / "one" / "code"
    first = take_snapshot(house, snapshots, config_dir=place)
    assert take_snapshot(house, snapshots, config_dir=place) == first  # it does not hold itself
    found = {str(path.relative_to(first / CONFIG_DIR)) for path in (first / CONFIG_DIR).rglob("*") if path.is_file()}
    assert found == {"network/a.yaml", "data/facts.yaml"}


def test_no_password_and_no_wider_rights(house, tmp_path):
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "mine.yaml").write_text("uri: http://me:secret@host:5000\n")
    for path in (extra / "mine.yaml", house / "conf" / "mine.yaml"):
        path.chmod(0o400)
    snapshot = take_snapshot(house, tmp_path / "code", config_dir=extra)
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    assert not [path for path in files if "secret" in path.read_text(encoding="utf-8")]
    assert "http://host:5000" in (snapshot / CONFIG_DIR / "mine.yaml").read_text()
    assert {path.stat().st_mode & 0o777 for path in files if path.suffix == ".yaml"} == {0o400}


def test_new_files_of_any_name_are_among_the_changes(house, tmp_path):
    (house / "conf" / 'größe "1".yaml').write_text("here: 1\n")
    (house / "run.py").write_text("pass\nchanged\n")
    changes = (take_snapshot(house, tmp_path / "code") / CHANGES).read_text()
    assert "+changed" in changes and "+here: 1" in changes
