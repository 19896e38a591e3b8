"""Run idempotent tasks, a bounded number in flight, and hand back receipts as they finish.

Dask runs a task at least once, sometimes twice; that is harmless because each task commits its
own effects exactly once. Futures are released as soon as they are read: a held future of a dead
worker would be computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from distributed import Client, Future, as_completed

TASKS_PER_SLOT = 2  # enough to keep a worker fed while its receipt travels

Argument = TypeVar("Argument")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Argument, Result]):
    """What became of one task: its result, or the exception that ended it."""

    argument: Argument
    result: Result | None
    error: BaseException | None


def run_tasks(
    client: Client | None,
    function: Callable[[Argument], Result],
    arguments: Mapping[str, Argument],
) -> Iterator[Outcome[Argument, Result]]:
    """Call `function` on every argument; yields outcomes in the order in which they finish.

    With a client the calls run on its workers, under the mapping's keys; without one they run
    here, in order. An exception ends its own task only.
    """
    if client is None:
        yield from (_call(function, argument) for argument in arguments.values())
    else:
        yield from _run_on(client, function, arguments)


def _call(function: Callable[[Argument], Result], argument: Argument) -> Outcome[Argument, Result]:
    try:
        return Outcome(argument, function(argument), None)
    except Exception as error:
        return Outcome(argument, None, error)


def _run_on(
    client: Client,
    function: Callable[[Argument], Result],
    arguments: Mapping[str, Argument],
) -> Iterator[Outcome[Argument, Result]]:
    num_slots = max(1, sum(client.nthreads().values()))
    waiting = iter(arguments.items())
    running: dict[Future[Any], Argument] = {}

    def submit_next() -> Future[Any] | None:
        for key, argument in waiting:
            future = client.submit(function, argument, key=key, pure=False)
            running[future] = argument
            return future
        return None

    first = [submit_next() for _ in range(min(len(arguments), num_slots * TASKS_PER_SLOT))]
    finished = as_completed([future for future in first if future is not None])
    for future in finished:
        following = submit_next()
        if following is not None:
            finished.add(following)
        yield _outcome(future, running.pop(future))


def _outcome(future: Future[Any], argument: Argument) -> Outcome[Argument, Result]:
    error = future.exception()
    result = future.result() if error is None else None
    future.release()
    return Outcome(argument, result, error)
