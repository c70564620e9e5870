"""The disk is full, fails, or cannot be written to: one line, the last checkpoint whole, and the same bits once it is mended."""

import errno
import os
import random

import pytest
from shell import remount, small_file_system, with_failing
from training_runs import ALONE, BASELINE, LMCL, assert_same_run, end, fork, main_in, only_folder, start, status

QUIET = [*BASELINE, "tracking=none", "trainer.checkpoint_steps=2"]


def assert_one_line(error: str, reason: str) -> None:
    assert error.startswith("mcl_lab: error: runs/") and error.count("\n") == 1, error
    assert reason in error and "the same command goes on from what is whole" in error


@pytest.mark.full
@pytest.mark.parametrize("kilobytes", [50, 200])
def test_a_full_disk(kilobytes, lmcl_run, tmp_path):
    """Of a size at which the first checkpoint does not fit, or a later one."""
    arguments = [*LMCL, "tracking=none", "trainer.checkpoint_steps=5"]
    with small_file_system(tmp_path / "small", kilobytes) as cwd:
        ended = end(start(arguments, cwd))
        assert ended.status == 1
        assert_one_line(ended.err, "No space left on device; make room; then")
        folder = only_folder(cwd)
        assert not [*folder.rglob(".*.tmp")]  # which would take room
        again = end(start(arguments, cwd))
        assert (again.status, again.err) == (1, ended.err)
        remount(cwd, "size=4m")
        ended = end(start(arguments, cwd))
        assert (ended.status, ended.err) == (0, "")
        assert_same_run(folder, lmcl_run)


def fail_from_write(number, error, cwd, arguments):
    """A run in whose process putting a file in place fails, as do writing to the journal and deleting, from the n-th on."""
    real, calls = {name: getattr(os, name) for name in ("replace", "fsync", "unlink")}, 0

    def failing(name):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls > number:
                raise OSError(error, os.strerror(error))
            return real[name](*arguments, **options)

        return call

    for name in real:
        setattr(os, name, failing(name))
    main_in(cwd, arguments)


@pytest.mark.parametrize(("error", "every"), [(errno.EROFS, 9), pytest.param(errno.EIO, 2, marks=pytest.mark.full)])
def test_a_disk_that_fails_from_some_moment_on(error, every, baseline_run, tmp_path):
    """From any moment on at which a run writes."""
    failed = 0
    for number in range(random.SystemRandom().randrange(every), 100, every):
        cwd = tmp_path / str(number)
        cwd.mkdir()
        if fork(fail_from_write, number, error, cwd, QUIET) != 0:
            failed += 1
            output = (cwd / "output.txt").read_text()
            assert_one_line(output.splitlines(keepends=True)[-1], os.strerror(error))
            assert "Traceback" not in output
        again = fork(main_in, cwd, QUIET)
        assert again == 0, (number, (cwd / "output.txt").read_text())
        (only_folder(cwd) / "run.lock").unlink(
            missing_ok=True
        )  # of a run that failed in its last act, which does no harm
        assert_same_run(only_folder(cwd), baseline_run)
        if failed * every < number - 2 * every:  # and it was finished before that moment the last times
            break
    assert failed * every >= 30


@pytest.mark.full
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_system_calls_that_fail(call, baseline_run, tmp_path):
    """In the kernel's place; at random moments, once or from there on."""
    seed = random.SystemRandom().randrange(10**9)
    print("seed of the random moments:", seed)
    chance = random.Random(seed)
    for number in range(4):
        cwd = tmp_path / str(number)
        cwd.mkdir()
        when = f"{chance.randint(1, 12 if call == 'rename' else 26)}{'+' if number % 2 else ''}"
        ended = end(start(QUIET, cwd, before=with_failing(call, "EIO", when)))
        if ended.status != 0:
            assert_one_line(ended.err, "Input/output error")
            assert fork(main_in, cwd, QUIET) == 0, (when, (cwd / "output.txt").read_text())
        assert_same_run(only_folder(cwd), baseline_run)


@pytest.mark.full
def test_a_folder_that_cannot_be_written_to(alone_run, tmp_path):
    quiet = [*ALONE, "tracking=none"]
    with small_file_system(tmp_path / "small", 4000) as cwd:
        remount(cwd, "ro")
        ended = end(start(quiet, cwd))
        assert ended.status == 2 and ended.err.count("\n") == 1
        assert ended.err.startswith("mcl_lab: error: hydra.run.dir: cannot make the run folder runs/")
        assert not list(cwd.iterdir())

        # Run folders elsewhere: only the store, mlflow.db in the working directory, cannot be written.
        elsewhere = f"hydra.run.dir={tmp_path}/run"
        ended = end(start([*ALONE, elsewhere, "tracking.wait=60"], cwd))
        assert (ended.status, ended.err) == (0, "") and "not yet recorded" in ended.out
        assert_same_run(tmp_path / "run", alone_run)

        remount(cwd, "rw")
        assert end(start([*quiet, "trainer.epochs=3"], cwd)).status == 0
        folder = only_folder(cwd)
        (folder / "result.json").unlink()
        remount(cwd, "ro")
        ended = end(start([*quiet, "trainer.epochs=3"], cwd))
        assert ended.status == 1 and status(folder) == "finished"
        assert_one_line(ended.err, "Read-only file system")


@pytest.mark.full
def test_a_sweep_on_a_full_disk(alone_run, tmp_path):
    arguments = ["-m", *ALONE, "tracking=none", "seed=0,1,2", "hydra.launcher.jobs=2"]
    with small_file_system(tmp_path / "small", 60) as cwd:
        ended = end(start(arguments, cwd))
        assert ended.status == 1 and "Traceback" not in ended.err + ended.out, ended
        assert ended.err.splitlines()[-1].startswith("mcl_lab: error: ")
        remount(cwd, "size=4m")
        ended = end(start(arguments, cwd))
        assert ended.status == 0, ended
        assert_same_run(next(cwd.glob("runs/*-s0-*")), alone_run)
