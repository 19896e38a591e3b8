"""Signals that ask a training to stop: it ends its step, and saves, first."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from typing import TypeVar

from configs.signals import STOP_SIGNALS
from shards.stream.threads import Threads

Item = TypeVar("Item")

LOOK_EVERY_S = 0.2


class Stop:
    """Whether a signal has asked this process to stop while it could not do so at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Note the signals that come inside the block, instead of ending where it stands."""
        before = [signal.signal(number, self._note) for number in STOP_SIGNALS]
        try:
            yield
        finally:
            for number, handler in zip(STOP_SIGNALS, before, strict=True):
                signal.signal(number, handler)

    def until_asked(self, items: Generator[Item, None, None]) -> Generator[Item, None, None]:
        """Items until a signal comes; then `items` is closed, unless it hangs.

        Each is made in a thread, so that nobody waits for one that is in the making when a signal
        comes: a store may hang for minutes. (To raise from the handler instead would interrupt
        whatever runs just then, a fork or a lock.)
        """
        maker = Threads(1)
        try:
            while not self.asked:
                future = maker.submit(lambda: next(items, None))
                while not wait([future], LOOK_EVERY_S).done and not self.asked:
                    pass
                if not future.done() or (item := future.result()) is None:
                    return
                yield item
        finally:
            if maker.end():
                items.close()

    def _note(self, *_: object) -> None:
        self.asked = True
