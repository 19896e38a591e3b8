"""Signals that come while a step is computed are kept for its end; none waits for data."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import closing
from threading import Event, Timer

import pytest

from configs.signals import STOP_SIGNALS
from train.stop import Stop


@pytest.mark.parametrize("number", STOP_SIGNALS)
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
    before = [signal.getsignal(number) for number in STOP_SIGNALS]

    def fail() -> None:
        with Stop().deferring():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


class Items:
    """1, 2, 3, of which one may hang or fail; knows whether it was closed."""

    def __init__(self, **befalls: Callable[[], None]) -> None:
        self.is_closed, self._befalls = False, befalls

    def __iter__(self) -> Generator[int, None, None]:
        try:
            for name, item in (("one", 1), ("two", 2), ("three", 3)):
                self._befalls.get(name, bool)()
                yield item
        finally:
            self.is_closed = True


def test_items_come_in_order_and_are_closed_by_who_leaves() -> None:
    items = Items()
    assert list(Stop().until_asked(iter(items))) == [1, 2, 3]
    items = Items()
    with closing(Stop().until_asked(iter(items))) as some:
        assert next(some) == 1
        assert not items.is_closed
    assert items.is_closed


def test_an_error_of_an_item_comes_out() -> None:
    items = Items(two=lambda: [][0])
    with pytest.raises(IndexError):
        list(Stop().until_asked(iter(items)))


def test_nobody_waits_for_an_item_that_hangs_when_a_signal_comes() -> None:
    never, stop = Event(), Stop()
    items = Items(two=lambda: bool(never.wait(60)))
    seen, began_s = [], time.monotonic()
    with stop.deferring():
        Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        for item in stop.until_asked(iter(items)):
            seen.append(item)
    assert (seen, stop.asked) == ([1], True)
    assert time.monotonic() - began_s < 5
    assert not items.is_closed, "its thread still runs"
    never.set()


def test_an_item_that_was_there_before_the_signal_is_the_last() -> None:
    stop, items = Stop(), Items()
    seen = []
    with stop.deferring():
        for item in stop.until_asked(iter(items)):
            seen.append(item)
            os.kill(os.getpid(), signal.SIGINT)
    assert seen == [1]
    assert items.is_closed
