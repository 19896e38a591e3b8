"""Where a job's tasks run: in this process one after the other, or on the workers of a client.

An engine runs attempts and knows nothing of second ones; that is `cluster.submit`'s part.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from distributed import Client, Future

from cluster.guard import Guarded, Receipt, WorkerRefused
from cluster.rules import Rules
from cluster.watch import Watch
from configs.errors import ClusterLost

TASKS_PER_SLOT = 2  # enough to keep a worker fed while its receipt travels
RESULT_LIMIT_S = 30.0  # for a receipt to come from its worker

Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Ended:
    """An attempt that ended: with a receipt, or with an error."""

    label: str
    receipt: Receipt[Any] | None
    error: BaseException | None = None


class Engine(Protocol):
    """What the loop asks of a place."""

    @property
    def room(self) -> int:
        """How many attempts may be in it."""

    def start(self, function: Function, arguments: Mapping[str, Any]) -> None:
        """Begin an attempt at each argument, under its label."""

    def ended(self, limit_s: float) -> list[Ended]:
        """The attempts that have ended; waits for one, at most so long."""

    def dismiss(self, worker: str, why: str) -> None:
        """Let a worker go."""

    def close(self) -> None:
        """Forget what has not ended."""


class Here:
    """This process: an attempt runs when its end is asked for."""

    room = 1

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Function, Any]] = deque()

    def start(self, function: Function, arguments: Mapping[str, Any]) -> None:
        self._waiting.extend((label, function, value) for label, value in arguments.items())

    def ended(self, limit_s: float) -> list[Ended]:
        if not self._waiting:
            time.sleep(limit_s)
            return []
        label, function, argument = self._waiting.popleft()
        began_s = time.monotonic()
        try:
            receipt = Receipt(function(argument), "here", time.monotonic() - began_s)
        except Exception as error:
            return [Ended(label, None, error)]
        return [Ended(label, receipt)]

    def dismiss(self, worker: str, why: str) -> None:
        raise AssertionError(f"{worker} is this process: {why}")

    def close(self) -> None:
        self._waiting.clear()


class Workers:
    """The workers of a Dask client.

    Futures are released as soon as they are read: one that is held would be computed again with
    the worker that has it. Keys are new for every attempt, so that jobs which share a scheduler,
    and attempts at one task, never meet.
    """

    def __init__(self, client: Client, rules: Rules[Any]) -> None:
        self._client, self._rules = client, rules
        self._watch = Watch(client, rules)
        self._topic = f"tasks-{uuid.uuid4().hex[:8]}"
        self._expected = rules.stamp()
        self._futures: dict[str, tuple[str, Future[Any]]] = {}  # by key, with the label
        self._done: SimpleQueue[str] = SimpleQueue()
        client.subscribe_topic(self._topic, self._note_begin)

    def _note_begin(self, event: tuple[float, dict[str, Any]]) -> None:
        at_s, who = event
        self._rules.note(event="start", at=at_s, **who)

    @property
    def room(self) -> int:
        return self._watch.num_slots * TASKS_PER_SLOT

    def start(self, function: Function, arguments: Mapping[str, Any]) -> None:
        if not arguments:
            return
        guarded = Guarded(function, self._rules.stamp, self._expected, self._topic)
        labels = list(arguments)
        keys = [f"{label}-{uuid.uuid4().hex[:8]}" for label in labels]
        resources = dict(self._rules.resources) or None
        values = list(arguments.values())
        futures = self._client.map(
            guarded, values, labels, key=keys, pure=False, resources=resources
        )
        for key, label, future in zip(keys, labels, futures, strict=True):
            self._futures[key] = label, future
            future.add_done_callback(lambda done: self._done.put(str(done.key)))

    def ended(self, limit_s: float) -> list[Ended]:
        keys = self._finished_keys(min(limit_s, self._watch.tick_s))
        found = [ended for key in keys if (ended := self._read(key)) is not None]
        self._watch.look(bool(found), len(self._futures))
        return found

    def _finished_keys(self, limit_s: float) -> list[str]:
        keys: list[str] = []
        try:
            keys.append(self._done.get(timeout=limit_s))
            while True:
                keys.append(self._done.get_nowait())
        except Empty:
            return keys

    def _read(self, key: str) -> Ended | None:
        """How an attempt ended; None where its worker died with the receipt, which Dask sees to."""
        if key not in self._futures:
            return None
        label, future = self._futures[key]
        if future.status in ("cancelled", "lost"):
            raise ClusterLost(
                "the scheduler is gone; what is committed is kept: run the same command again"
            )
        ended = self._receipt(label, future)
        if ended is None:
            future.add_done_callback(lambda done: self._done.put(str(done.key)))
            return None
        del self._futures[key]
        future.release()
        return ended

    def _receipt(self, label: str, future: Future[Any]) -> Ended | None:
        try:
            receipt = future.result(timeout=RESULT_LIMIT_S)
        except TimeoutError as error:
            return Ended(label, None, error) if future.status == "error" else None
        except ImportError as error:  # of the task itself, or of what it is made of
            worker = self._erred_on(str(future.key))
            return Ended(label, None, WorkerRefused(worker, "its log says more", (str(error),)))
        except Exception as error:
            return Ended(label, None, error)
        self._watch.slowest_s = max(self._watch.slowest_s, receipt.seconds)
        return Ended(label, receipt)

    def _erred_on(self, key: str) -> str:
        """The worker where an attempt failed. The scheduler may not have our packages: what it
        runs is sent by value, as functions inside functions are."""

        def look(dask_scheduler: Any) -> str:
            return str(next(iter(dask_scheduler.tasks[key].erred_on or [""])))

        return str(self._client.run_on_scheduler(look))

    def dismiss(self, worker: str, why: str) -> None:
        self._watch.dismiss(worker, why)

    def close(self) -> None:
        self._client.unsubscribe_topic(self._topic)
        for _, future in self._futures.values():
            future.release()
        self._futures.clear()
