"""Threads that read ahead, and that nobody has to wait for: a store may hang for minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")

PATIENCE_S = 1.0  # with a read that is under way when nobody wants it any more


class Threads:
    """Calls made in some threads, in the order in which they were asked for.

    Unlike those of an executor they do not keep the interpreter from ending.
    """

    def __init__(self, count: int) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._work, name="stream", daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """The result of a call, or what it raised, once it is made."""
        future: Future[Result] = Future()

        def make() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(make)
        return future

    def end(self) -> bool:
        """Let the threads end, and wait for a moment; returns whether all of them have."""
        for _ in self._threads:
            self._calls.put(None)
        deadline_s = time.monotonic() + PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
