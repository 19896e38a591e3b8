"""Signals that ask a training to stop: it ends its step, and saves, first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stop:
    """Whether a signal has asked this process to stop while it could not do so at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Note the signals that come inside the block, instead of ending where it stands."""
        before = [signal.signal(number, self._note) for number in SIGNALS]
        try:
            yield
        finally:
            for number, handler in zip(SIGNALS, before, strict=True):
                signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.asked = True
