"""Jobs that somebody cancels, launchers that are killed while they wait: the table is right, and the same command goes on."""

import os
import shutil
import signal
import time

import pytest
from desk import LONG, ONE_CORE, Desk
from shell import with_failing
from training_runs import end, start

pytestmark = pytest.mark.full
FOUR = ["trainer.device=auto", "seed=0,1,2,3", "hydra.launcher.array_parallelism=2"]
THREE = [*FOUR, "seed=0,1,2"]
TRUTH = 30  # seconds after which the table may not lie


@pytest.fixture
def desk(cluster, tmp_path):
    return Desk(tmp_path, cluster)


def two_run(standings):
    return sum(run["state"] == "running" and run["epoch"] >= 1 for run in standings) == 2


def test_cancelled_one_by_one_and_all(desk):
    desk.submit("four", *LONG, *FOUR)
    standings = desk.wait("four", two_run)
    running, pending = standings[0], standings[-1]
    assert [run["state"] for run in standings] == ["running"] * 2 + ["queued"] * 2
    assert "JobArrayTaskLimit" in pending["detail"]
    desk.cluster.run("scancel", pending["job"])
    desk.cluster.run("scancel", running["job"])

    def noticed(standings):
        return [standings[0]["state"], standings[-1]["state"]] == ["cancelled", "cancelled"]

    standings = desk.wait("four", noticed, TRUTH)
    assert "after epoch" in standings[0]["detail"]
    assert not desk.ledger("four")["runs"][-1]["attempts"][0]["pid"]

    # Submitted again: those two alone.
    assert "2 of 4 runs submitted" in desk.run(*ONE_CORE, "-m", "sweep=four", *LONG, *FOUR)
    assert desk.standings("four")[-1]["state"] in ("queued", "running")

    desk.run("task=sweep", "task.sweep=four", "task.action=cancel")
    standings = desk.wait("four", lambda runs: all(run["state"] in ("cancelled", "finished") for run in runs), TRUTH)
    assert any(run["state"] == "cancelled" for run in standings)
    desk.wait_for_queue()

    open_runs = sum(run["state"] == "cancelled" for run in standings)
    said = desk.run("task=sweep", "task.sweep=four", "task.action=resubmit")
    assert f"{open_runs} of 4 runs submitted" in said
    desk.wait_all("four")


def test_a_launcher_that_waits_is_interrupted_and_killed(desk):
    command = [*ONE_CORE, "-m", "sweep=three", *LONG, *THREE, "hydra.launcher.wait=true"]
    waiting = desk.start(*command)
    desk.wait("three", two_run)
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 128 + signal.SIGINT
    assert "the jobs go on" in err and "task.sweep=three task.action=status" in err
    assert sum(run["state"] in ("running", "finished") for run in desk.standings("three")) >= 2

    waiting = desk.start(*command)
    said = next(line for line in waiting.stdout if "submitted" in line)
    waiting.kill()
    waiting.communicate(timeout=60)
    assert "0 of 3 runs submitted" in said

    desk.run("task=sweep", "task.sweep=three", "task.action=status", timeout=400)  # returns when all have ended
    assert {run["state"] for run in desk.standings("three")} == {"finished"}
    assert [run["attempts"] for run in desk.standings("three")] == [1] * 3
    desk.wait_for_queue()


def test_a_waiting_launcher_sees_all_to_the_end(desk):
    command = [*ONE_CORE, "-m", "sweep=two", *LONG, "seed=0,1", "hydra.launcher.wait=true"]
    out = desk.run(*command, timeout=300)
    assert "finished" in out and "task=report task.sweep=two" in out
    assert "2 of 2" in out
    desk.wait_for_queue()


def test_slurm_does_not_answer(desk):
    """Nothing is submitted twice, and nothing is called lost, only because slurmctld is away."""
    desk.submit("one", *LONG)
    desk.wait("one", lambda runs: runs[0]["state"] == "running")
    for name in ("squeue", "sacct"):
        path = desk.folder / "away" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    away = Desk(desk.folder, desk.cluster)
    away.environment = desk.environment | {"PATH": f"{path.parent}{os.pathsep}{desk.environment['PATH']}"}
    assert away.standings("one")[0]["state"] in ("running", "unknown")  # its folder may tell
    ended = away.call(*ONE_CORE, "-m", "sweep=one", *LONG)
    assert "0 of 1 runs submitted" in ended.out or "SLURM does not say" in ended.err, ended
    desk.wait_all("one")
    assert desk.standings("one")[0]["attempts"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.launcher.partition=nowhere"], "nvalid partition"),
        (["hydra.launcher.gpus=99", "trainer.device=auto"], "node configuration is not available"),
        (["hydra.launcher.sbatch=[--no-such-option]"], "unrecognized option"),
    ],
)
def test_what_sbatch_refuses(words, said, desk):
    ended = desk.call(*ONE_CORE, "-m", *LONG, "tracking=none", *words)
    assert ended.status == 2, ended
    assert said in ended.err and len(ended.err.splitlines()) == 1, ended.err
    assert desk.cluster.jobs() == []


def test_variables_of_sbatch_do_not_get_around_the_settings(desk):
    """They count more for sbatch than the lines of a script; what a user presets for the site stays when nothing else is said."""
    desk.environment |= {
        "SBATCH_TIMELIMIT": "7",
        "SBATCH_PARTITION": "low",
        "SBATCH_NO_REQUEUE": "1",
        "SBATCH_WAIT": "1",
    }
    desk.environment |= {"SBATCH_EXPORT": "NONE", "MCL_LAB_PLUGINS": "nothing"}
    blocker = desk.cluster.submit("sleep 300", "--exclusive", "--nodes=2", "--partition=high")
    desk.cluster.wait(blocker, "RUNNING")
    for name, words, partition in (("a", [], "low"), ("b", ["hydra.launcher.partition=gpu"], "gpu")):
        desk.submit(name, *LONG, "seed=0", "hydra.launcher.time=50", *words)
        (run,) = desk.standings(name)
        job = desk.cluster.run("scontrol", "show", "job", run["job"])
        assert f"Partition={partition} " in job and "TimeLimit=00:50:00" in job and "Requeue=1" in job
        desk.cluster.run("scancel", run["job"])
    desk.cluster.run("scancel", blocker)
    desk.wait_for_queue()


def test_settings_of_slurm_are_the_same_for_all_runs(desk):
    ended = desk.call(*ONE_CORE, "-m", *LONG, "hydra.launcher.time=10,20")
    assert ended.status == 2 and "hydra.launcher: must be the same" in ended.err


def test_interrupted_while_sbatch_takes_its_time(desk):
    """What SLURM took is in the ledger, and is not submitted twice."""
    slow = desk.folder / "bin" / "sbatch"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/bash\ntouch {desk.folder}/asked\nsleep 2\nexec {shutil.which("sbatch")} "$@"\n')
    slow.chmod(0o755)
    path = desk.environment["PATH"]
    desk.environment |= {"PATH": f"{slow.parent}:{path}"}
    command = [*ONE_CORE, "-m", "sweep=two", *LONG, "seed=0,1", "hydra.launcher.sbatch=[--hold]"]
    launching = start(command, desk.folder, env=desk.environment, start_new_session=True)
    until = time.monotonic() + 60
    while not (desk.folder / "asked").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    os.killpg(launching.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
    _, err = launching.communicate(timeout=60)
    desk.environment |= {"PATH": path}
    assert launching.returncode == 130, err
    assert {run["state"] for run in desk.standings("two")} == {"queued"}
    assert "0 of 2 runs submitted" in desk.run(*command)
    desk.run("task=sweep", "task.sweep=two", "task.action=cancel")
    desk.wait_for_queue()


def test_a_run_of_two_sweeps_has_one_job(desk):
    hold = ["hydra.launcher.sbatch=[--hold]", *LONG, "trainer.epochs=2"]
    desk.submit("a", *hold, "seed=0,1")
    assert "1 of 2 runs submitted" in desk.run(*ONE_CORE, "-m", "sweep=b", *hold, "seed=1,2")
    shared = desk.standings("b")[0]
    assert (shared["state"], shared["job"]) == ("queued", desk.standings("a")[1]["job"])
    for job in {run["job"].partition("_")[0] for name in "ab" for run in desk.standings(name)}:
        desk.cluster.run("scontrol", "release", job)
    desk.wait_all("b")
    desk.wait_all("a")
    assert [run["attempts"] for name in "ab" for run in desk.standings(name)] == [1] * 4
    assert desk.standings("b")[0]["host"] == desk.standings("a")[1]["host"] != ""


def test_a_ledger_that_cannot_be_written_after_the_submission(desk):
    """What SLURM has taken is given back, and the same command submits it when there is room."""
    command = [*ONE_CORE, "-m", "sweep=four", *LONG, *FOUR]
    third = [
        *with_failing("rename", "ENOSPC", "3"),
        "-P",
        "runs/sweeps/four/.ledger.json.tmp",
    ]  # the first two come before
    refused = end(start(command, desk.folder, env=desk.environment, before=third))
    assert refused.status == 1 and refused.err.count("\n") == 1
    assert "No space left on device" in refused.err and "Traceback" not in refused.err
    assert not any(run["attempts"] for run in desk.ledger("four")["runs"])
    desk.wait_for_queue(TRUTH)
    assert "4 of 4 runs submitted" in desk.run(*command)
    desk.run("task=sweep", "task.sweep=four", "task.action=cancel")
    desk.wait_for_queue()
