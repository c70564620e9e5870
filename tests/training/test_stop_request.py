"""Signals as requests."""

import os
import signal
import time

import pytest

from mcl_lab.training.stopping import SIGNALS, Abandoned, StopRequest


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0)  # a signal is handled between two steps of the interpreter


@pytest.fixture
def usual():
    """The signals that came through to the handlers from outside."""
    came = []
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in SIGNALS}
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request_and_the_second_acts_as_usual(number, usual):
    with StopRequest() as stop:
        assert stop.signal is None
        stop.check()
        send(number)
        assert stop.signal == number and stop.signal.name == signal.Signals(number).name and usual == []
        with pytest.raises(Abandoned):
            stop.check()
        send(number)
        assert usual == [number]


def test_handlers_are_put_back(usual):
    inside = {}
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.raises(ZeroDivisionError), StopRequest():
        inside = {number: signal.getsignal(number) for number in SIGNALS}
        raise ZeroDivisionError
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    assert not set(inside.values()) & set(before.values())


def test_abandonable(usual):
    reached = []
    with StopRequest() as stop:
        with stop.abandonable():
            reached.append("whole")
        with pytest.raises(Abandoned), stop.abandonable():
            try:
                send(signal.SIGTERM)
                reached.append("after the signal")
            except Exception:
                reached.append("swallowed")
        send(signal.SIGINT)  # no longer inside: nothing is raised here
        with pytest.raises(Abandoned), stop.abandonable():
            reached.append("entered")
    assert reached == ["whole"] and usual == []


def test_abandonable_when_a_library_turns_the_exception_into_its_own(usual):
    """As TorchScript does, by which PyTorch takes some second derivatives."""

    def work():
        try:
            send(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("failed in the TorchScript interpreter") from error

    with StopRequest() as stop, pytest.raises(Abandoned), stop.abandonable():
        work()
    with StopRequest() as stop, pytest.raises(RuntimeError, match="of its own"), stop.abandonable():
        raise RuntimeError("of its own")


def test_guard(usual):
    taken = []
    with StopRequest() as stop, pytest.raises(Abandoned):
        for item in stop.guard(range(5)):
            taken.append(item)
            if item == 2:
                send(signal.SIGUSR2)
    assert taken == [0, 1, 2]
    with StopRequest() as stop:
        assert list(stop.guard("abc")) == ["a", "b", "c"]


def test_entered_within_itself_it_ends_with_the_outer():
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    with stop:
        with stop:
            pass
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
