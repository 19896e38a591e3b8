"""What surrounds a task on its worker: is this worker like the driver, and who works on what."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from distributed import get_worker

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Stamp = Mapping[str, str]


class WorkerRefused(Exception):
    """A worker that would make other bytes, or look at other files, than the driver."""

    def __init__(self, worker: str, who: str, differences: tuple[str, ...]) -> None:
        super().__init__(worker, who, differences)
        self.worker, self.who, self.differences = worker, who, differences


class TaskFailed(Exception):
    """An error of a task, and the worker on which it came up."""

    def __init__(self, worker: str, error: Exception) -> None:
        super().__init__(worker, error)
        self.worker, self.error = worker, error


@dataclass(frozen=True)
class Receipt(Generic[Result]):
    """What a task gave, who ran it, and how long that took."""

    result: Result
    worker: str
    seconds: float


@dataclass(frozen=True)
class Guarded(Generic[Argument, Result]):
    """A function as it runs on workers: only on those that match, and not unseen.

    Args:
        function: the task.
        stamp: what decides bytes and sees files, as a worker finds it: versions, fingerprints.
        expected: the driver's own.
        topic: where Dask reports which worker began what.
    """

    function: Callable[[Argument], Result]
    stamp: Callable[[], Stamp]
    expected: Stamp
    topic: str

    def __call__(self, argument: Argument, name: str) -> Receipt[Result]:
        worker = get_worker()
        differences = compare(self.expected, self.stamp())
        if differences:
            who = f"{worker.name} on {socket.gethostname()}"
            raise WorkerRefused(worker.address, who, differences)
        worker.log_event(self.topic, _who_begins(name, worker))
        began_s = time.monotonic()
        try:
            result = self.function(argument)
        except Exception as error:
            # With deep frames on it Dask cannot send an error, and the task would never end.
            error.__cause__ = error.__context__ = None
            raise TaskFailed(worker.address, error.with_traceback(None)) from None
        return Receipt(result, worker.address, time.monotonic() - began_s)


def _who_begins(name: str, worker: Any) -> dict[str, Any]:
    return {
        "task": name,
        "worker": worker.address,
        "name": str(worker.name),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def compare(expected: Stamp, found: Stamp) -> tuple[str, ...]:
    """One line for each entry in which a worker differs from the driver."""
    keys = sorted(expected.keys() | found.keys())
    return tuple(
        f"{key} {found.get(key, 'missing')} there, {expected.get(key, 'missing')} here"
        for key in keys
        if expected.get(key) != found.get(key)
    )
