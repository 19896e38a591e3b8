"""Signals that come while a step is computed are kept for its end."""

from __future__ import annotations

import os
import signal

import pytest

from train.stop import SIGNALS, Stop


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_the_block_goes_on(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop, went_on = Stop(), False
    with stop.deferring():
        assert not stop.asked
        os.kill(os.getpid(), number)
        went_on = True
    assert stop.asked
    assert went_on
    assert signal.getsignal(number) is before


def test_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def fail() -> None:
        with Stop().deferring():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [signal.getsignal(number) for number in SIGNALS] == before
