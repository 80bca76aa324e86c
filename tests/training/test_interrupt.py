from __future__ import annotations

import signal
import threading

import pytest

from robustmdiff.training.interrupt import Interrupt


@pytest.fixture
def heard():
    """Ctrl-C as in a terminal: a process started in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_ctrl_c_waits_and_the_second_does_not(heard):
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert interrupt.signal == 0
        signal.raise_signal(signal.SIGINT)
        assert interrupt.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_handlers_come_back_after_an_error():
    before = [signal.getsignal(s) for s in Interrupt.SIGNALS]
    with pytest.raises(KeyError), Interrupt():
        raise KeyError
    assert [signal.getsignal(s) for s in Interrupt.SIGNALS] == before


def test_outside_the_main_thread_it_changes_nothing():
    before, inside = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with Interrupt():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
