"""Checkpoints on disk: the last two, whole or refused."""

import io
import pickle
from functools import partial

import pytest
import torch

from mcl_lab.errors import RunFailed
from mcl_lab.runs.checkpoints import Checkpoints, UnusableCheckpoint, drop_steps, newest_file, read

FACTS = {"data": {"classes": ("a", "b"), "mean": [0.5]}}


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(
        tmp_path / "checkpoints", lambda path, content: path.write_bytes(content), run_key="k", facts=FACTS
    )


def state(value):
    return {"parts": {"cohort": {"weight": torch.full((300,), float(value))}}, "position": {"step": value}}


def steps(checkpoints):
    return sorted(int(path.name.split("-")[1]) for path in checkpoints.folder.iterdir())


DAMAGE = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "one bit": lambda content: content[:700] + bytes([content[700] ^ 1]) + content[701:],
    "grown": lambda content: content + b"\0",
}


def test_round_trip(checkpoints):
    assert checkpoints.newest() is None and not checkpoints.folder.exists()
    path = checkpoints.save(state(3), 0, 3)
    for found in (checkpoints.newest(), read(path)):
        assert found["data"] == FACTS["data"] and found["position"] == {"step": 3}
        assert torch.equal(found["parts"]["cohort"]["weight"], torch.full((300,), 3.0))


def test_the_last_two_are_kept(checkpoints):
    for step in (5, 9, 10, 99, 100, 1000):
        checkpoints.save(state(step), 0, step)
        assert checkpoints.newest()["position"]["step"] == step
    assert steps(checkpoints) == [100, 1000]


def test_the_last_of_one_step_counts(checkpoints):
    """Whatever their checksums, by which the names would sort."""
    checkpoints.save(state(1), 0, 1)
    for value in range(20):
        checkpoints.save(state(value), 0, 7)
        assert checkpoints.newest()["position"]["step"] == value
    checkpoints.save(state(19), 0, 7)  # the same once more
    assert checkpoints.newest()["position"]["step"] == 19 and steps(checkpoints) == [1, 7]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage(checkpoints, damage, caplog):
    first, second = checkpoints.save(state(1), 0, 1), checkpoints.save(state(2), 0, 2)
    second.write_bytes(damage(second.read_bytes()))
    with pytest.raises(UnusableCheckpoint, match=f"^{second} is damaged"):
        read(second)
    assert checkpoints.newest()["position"]["step"] == 1
    assert [entry.levelname for entry in caplog.records] == ["WARNING"] and caplog.records[0].getMessage().startswith(
        str(second)
    )
    first.write_bytes(damage(first.read_bytes()))
    with pytest.raises(RunFailed, match="no intact checkpoint is left in .*; to start over, delete the run folder"):
        checkpoints.newest()
    assert first.exists() and second.exists()


def test_going_on_after_damage(checkpoints):
    """A damaged checkpoint of a later step never pushes out the intact ones."""
    checkpoints.save(state(10), 0, 10)
    damaged = checkpoints.save(state(20), 0, 20)
    damaged.write_bytes(b"")
    for step in (12, 14, 16, 18):
        checkpoints.save(state(step), 0, step)
        assert checkpoints.newest()["position"]["step"] == step
    checkpoints.save(state(20), 0, 20)
    assert checkpoints.newest()["position"]["step"] == 20 and len(list(checkpoints.folder.iterdir())) == 2


def test_finish(checkpoints, tmp_path):
    with pytest.raises(UnusableCheckpoint, match="^there is no checkpoint in"):
        newest_file(checkpoints.folder)
    checkpoints.save(state(1), 0, 1)
    last = checkpoints.save(state(2), 0, 2)
    assert newest_file(checkpoints.folder) == last
    networks = checkpoints.finish({"parts": {"cohort": {"weight": torch.ones(2)}}})
    assert newest_file(checkpoints.folder) == networks and steps_left(checkpoints) == 2
    drop_steps(checkpoints.folder)
    assert list(checkpoints.folder.iterdir()) == [networks]
    assert torch.equal(read(networks)["parts"]["cohort"]["weight"], torch.ones(2))


def steps_left(checkpoints):
    return len(list(checkpoints.folder.glob("step-*.pt")))


def test_a_write_that_fails_leaves_the_older_ones(checkpoints):
    checkpoints.save(state(1), 0, 1)
    checkpoints.save(state(2), 0, 2)

    def full(path, content):
        raise OSError(28, "No space left on device")

    checkpoints.write = full
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(state(3), 0, 3)
    assert steps(checkpoints) == [1, 2] and checkpoints.newest()["position"]["step"] == 2


class Bomb:
    def __reduce__(self):
        return open, (str(Bomb.path), "w")


@pytest.mark.parametrize("save", [torch.save, partial(pickle.dump, protocol=2)], ids=["torch", "pickle"])
def test_code_in_a_file_is_not_run(save, tmp_path):
    Bomb.path = tmp_path / "exploded"
    path = tmp_path / "given.pt"
    buffer = io.BytesIO()
    save({"format": 1, "parts": Bomb()}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UnusableCheckpoint, match=r"^.*given\.pt is not a checkpoint of mcl_lab$"):
        read(path)
    assert not Bomb.path.exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 no archive"])
def test_other_files(content, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(UnusableCheckpoint, match="^.* is not a checkpoint of mcl_lab$"):
        read(path)


def test_other_files_of_pytorch_and_of_newer_code(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"layer.weight": torch.ones(2)}, path)
    with pytest.raises(UnusableCheckpoint, match="is not a checkpoint of mcl_lab"):
        read(path)
    torch.save({"format": 2}, path)
    with pytest.raises(UnusableCheckpoint, match=r"was written by a newer mcl_lab \(format 2\)"):
        read(path)
    with pytest.raises(UnusableCheckpoint, match="^cannot read .*: No such file or directory$"):
        read(tmp_path / "nothing.pt")
