"""Signals that ask a training to stop: it ends its step, and saves, first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class _Interrupted(BaseException):
    """Raised by a signal in the midst of a wait, whatever is waited for."""


class Stop:
    """Whether a signal has asked this process to stop while it could not do so at once."""

    def __init__(self) -> None:
        self.asked = False
        self._is_waiting = False

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Note the signals that come inside the block, instead of ending where it stands."""
        before = [signal.signal(number, self._note) for number in SIGNALS]
        try:
            yield
        finally:
            for number, handler in zip(SIGNALS, before, strict=True):
                signal.signal(number, handler)

    def until_asked(self, items: Iterator[Item]) -> Iterator[Item]:
        """Items until a signal comes; nobody waits for the one that is in the making then: a store
        may hang for minutes."""
        while not self.asked:
            try:
                self._is_waiting = True
                try:
                    item = next(items, None)
                finally:
                    self._is_waiting = False
            except _Interrupted:
                return
            if item is None:
                return
            yield item

    def _note(self, *_: object) -> None:
        self.asked = True
        if self._is_waiting:
            self._is_waiting = False
            raise _Interrupted
