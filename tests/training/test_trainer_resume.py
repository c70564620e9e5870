"""A run that is interrupted anywhere ends with the bits of one that is not."""

import os
import signal

import pytest
import torch
from toy_run import ToyBatches, ToyRun, equal

from mcl_lab.errors import Interrupted

STEPS = 15  # three epochs of five
POINTS = [f"{what} {number}" for what, count in (("step", STEPS), ("event", 9), ("test", 9)) for number in range(count)]


@pytest.fixture(scope="module")
def undisturbed():
    run = ToyRun()
    run.trainer.fit()
    return run.outcome()


@pytest.mark.parametrize("max_steps", [None, 12])
def test_from_every_checkpoint(max_steps):
    every_step = ToyRun(checkpoint_steps=1, max_steps=max_steps)
    every_step.trainer.fit()
    assert len(every_step.saved) == (STEPS if max_steps is None else max_steps) + 3  # and one for each epoch's end
    for step, content in every_step.saved:
        resumed = ToyRun(seed=step + 1, max_steps=max_steps).resume(content)
        resumed.trainer.fit()
        assert equal(resumed.outcome(), every_step.outcome()), f"from step {step}"


def test_checkpoints_change_nothing(undisturbed):
    run = ToyRun(checkpoint_steps=1)
    run.trainer.fit()
    assert equal(run.outcome(), undisturbed)


def test_the_comparison_sees_the_random_state(undisturbed):
    """That a resumed run which forgot the random state would be found out."""
    run = ToyRun(checkpoint_steps=1)
    run.trainer.fit()
    resumed = ToyRun().resume(run.saved[0][1])
    torch.manual_seed(1)
    resumed.trainer.fit()
    assert not equal(resumed.outcome(), undisturbed)


class Signals:
    """Asks to stop at the n-th of its calls."""

    def __init__(self, at, number=signal.SIGTERM):
        self.left, self.number = at, number

    def __call__(self, *_):
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        self.left -= 1


class SignallingBatches(list):
    """Test batches that ask to stop when one of them is fetched."""

    signals = staticmethod(lambda: None)

    def __iter__(self):
        for batch in super().__iter__():
            self.signals()
            yield batch


def run_with_signals(signals, where, seed=0):
    """A run in which `signals` is called in each step, each event, or with each test batch."""
    test = SignallingBatches(ToyBatches(3).epoch(-1))
    if where == "test":
        test.signals = signals
    return ToyRun(
        in_step=signals if where == "step" else lambda step: None,
        in_event=signals if where == "event" else lambda: None,
        test=test,
        seed=seed,
    )


@pytest.mark.parametrize("point", POINTS)
def test_stopped_by_a_signal_and_resumed(point, undisturbed):
    where, number = point.split()
    run = run_with_signals(Signals(int(number)), where)
    with pytest.raises(Interrupted, match=r"by SIGTERM after step \d+; the same command goes on") as stopped:
        run.trainer.fit()
    assert stopped.value.status == 128 + signal.SIGTERM
    step, content = run.saved[-1]
    assert step == run.trainer.position.step and f"after step {step};" in str(stopped.value)
    resumed = ToyRun(seed=5).resume(content)
    resumed.trainer.fit()
    assert equal(resumed.outcome(), undisturbed)
    assert [record["epoch"] for record in [*run.journal, *resumed.journal]] == [1, 2, 3]


def test_stopped_again_and_again(undisturbed):
    content, stops = None, 0
    while True:
        where = ("step", "event", "test")[stops % 3]
        run = run_with_signals(Signals(1), where, seed=stops)
        if content:
            run.resume(content)
        try:
            run.trainer.fit()
            break
        except Interrupted:
            stops += 1
            content = run.saved[-1][1]
    assert stops > 5 and equal(run.outcome(), undisturbed)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_an_event_is_done_once_for_each_batch_that_is_due(every):
    run = ToyRun(every=every, checkpoint_steps=1)
    run.trainer.fit()
    assert len(run.meta_event.events) == 3 * len(range(0, 5, every))


def test_an_event_that_was_broken_off_is_done_again():
    whole = ToyRun()
    whole.trainer.fit()
    run = run_with_signals(Signals(1), "event")
    with pytest.raises(Interrupted):
        run.trainer.fit()
    assert len(run.meta_event.events) == 1  # the second was broken off
    assert run.trainer.position.step == 3 and run.trainer.position.event_due
    resumed = ToyRun().resume(run.saved[-1][1])
    resumed.trainer.fit()
    assert run.meta_event.events + resumed.meta_event.events == whole.meta_event.events


def test_the_event_of_the_last_step_is_broken_off():
    whole = ToyRun(max_steps=3)
    whole.trainer.fit()
    run = ToyRun(max_steps=3, in_event=Signals(1))
    with pytest.raises(Interrupted):
        run.trainer.fit()
    assert run.trainer.position.step == 3
    resumed = ToyRun(max_steps=3).resume(run.saved[-1][1])
    resumed.trainer.fit()
    assert equal(resumed.outcome(), whole.outcome())


def test_an_event_broken_off_while_it_puts_things_back(undisturbed):
    """A signal may come when an event has values of its own in place of the parameters: they are not what is kept."""
    run = None

    def swap_and_stop():
        run.cohort.peers["a"].own.weight = torch.nn.Parameter(torch.zeros(3, 12))
        torch.rand(1)
        os.kill(os.getpid(), signal.SIGTERM)

    run = ToyRun(in_event=swap_and_stop)
    with pytest.raises(Interrupted):
        run.trainer.fit()
    resumed = ToyRun().resume(run.saved[-1][1])
    resumed.trainer.fit()
    assert equal(resumed.outcome(), undisturbed)
