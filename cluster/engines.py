"""Where a job's tasks run: in this process one after the other, or on the workers of a client.

An engine runs attempts and knows nothing of second ones; that is `cluster.submit`'s part.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from distributed import Client, Future

from cluster.client import ANSWER_LIMIT_S, GONE, NOBODY_THERE, asking
from cluster.guard import Guarded, Receipt, TaskFailed, WorkerRefused, compare
from cluster.rules import Rules
from cluster.watch import Watch
from configs.errors import ClusterLost, LostSight

TASKS_PER_SLOT = 2  # enough to keep a worker fed while its receipt travels
MOST_PER_SLOT, AHEAD_S = 32, 0.5  # of short tasks as many as this time holds, and no more
MEAN_OVER = 20  # tasks
RESULT_LIMIT_S = 3.0  # for receipts to come; a lost one must not keep the others waiting

NOWHERE: frozenset[str] = frozenset()

Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Ended:
    """An attempt that ended: with a receipt, or with an error."""

    name: str
    receipt: Receipt[Any] | None
    error: BaseException | None = None
    has_begun: bool = True  # False: it still waited on its worker, as far as is known
    worker: str = ""  # where an error of the task's own came up, if that is known


class Stranded(Exception):
    """The workers that an attempt was meant for have gone: no fault of its task."""


class Engine(Protocol):
    """What the loop asks of a place."""

    @property
    def num_slots(self) -> int:
        """How many attempts it works on at once."""

    @property
    def capacity(self) -> int:
        """How many attempts may be in it."""

    def start(
        self, function: Function, arguments: Mapping[str, Any], off: frozenset[str] = NOWHERE
    ) -> None:
        """Begin an attempt at each argument, under its name: not on the workers `off`, if there are
        others."""

    def ended(self, limit_s: float) -> list[Ended]:
        """The attempts that have ended; waits for one, at most so long: there may be none."""

    def dismiss(self, refused: WorkerRefused) -> None:
        """Let a worker go; raises LostSight where this process itself is no longer what it was."""

    def close(self) -> None:
        """Forget what has not ended."""


class Here:
    """This process: an attempt runs when its end is asked for."""

    num_slots = capacity = 1

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Function, Any]] = deque()

    def start(
        self,
        function: Function,
        arguments: Mapping[str, Any],
        off: frozenset[str] = NOWHERE,  # noqa: ARG002 - there is no other place
    ) -> None:
        self._waiting.extend((name, function, value) for name, value in arguments.items())

    def ended(self, limit_s: float) -> list[Ended]:
        if not self._waiting:
            time.sleep(limit_s)
            return []
        name, function, argument = self._waiting.popleft()
        began_s = time.monotonic()
        try:
            receipt = Receipt(function(argument), "here", time.monotonic() - began_s)
        except Exception as error:
            return [Ended(name, None, error)]
        return [Ended(name, receipt)]

    def dismiss(self, refused: WorkerRefused) -> None:
        raise AssertionError(f"{refused.worker} is this process")

    def close(self) -> None:
        self._waiting.clear()


@dataclass(frozen=True)
class Attempt:
    """One that Dask knows of: at which task, and which workers may take it (None: any)."""

    name: str
    future: Future[Any]
    workers: frozenset[str] | None


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
        self._attempts: dict[str, Attempt] = {}  # by key
        self._done: SimpleQueue[str] = SimpleQueue()
        self._begun: set[str] = set()  # names of tasks
        self._mean_s = AHEAD_S
        with asking():
            client.subscribe_topic(self._topic, self._note_begin)

    def _note_begin(self, event: tuple[float, dict[str, Any]]) -> None:
        at_s, who = event
        self._begun.add(who["task"])
        self._rules.note(event="start", at=at_s, **who)

    @property
    def num_slots(self) -> int:
        return max(1, self._watch.num_slots)

    @property
    def capacity(self) -> int:
        ahead = round(AHEAD_S / max(self._mean_s, AHEAD_S / MOST_PER_SLOT))
        if not self._watch.num_slots and self._watch.allowed() is not None:
            return 0  # those that are there are refused
        # With no worker one task waits, so that a scheduler which scales itself sees work.
        return max(1, self._watch.num_slots * max(TASKS_PER_SLOT, ahead))

    def start(
        self, function: Function, arguments: Mapping[str, Any], off: frozenset[str] = NOWHERE
    ) -> None:
        if not arguments:
            return
        guarded = Guarded(function, self._rules.stamp, self._expected, self._topic)
        names = list(arguments)
        self._begun.difference_update(names)
        keys = [f"{name}-{uuid.uuid4().hex[:8]}" for name in names]
        resources = dict(self._rules.resources) or None
        values, allowed = list(arguments.values()), self._watch.allowed(off)
        with asking():
            futures = self._client.map(
                guarded,
                values,
                names,
                key=keys,
                pure=False,
                resources=resources,
                workers=None if allowed is None else sorted(allowed),
            )
        for key, name, future in zip(keys, names, futures, strict=True):
            self._attempts[key] = Attempt(name, future, allowed)
            future.add_done_callback(self._tell)

    def ended(self, limit_s: float) -> list[Ended]:
        keys = self._done_keys(min(limit_s, self._watch.tick_s))
        errors = [self._failed(key) for key in keys if self._attempts[key].future.status == "error"]
        found = errors + self._receipts([key for key in keys if key in self._attempts])
        has_moved = any(not isinstance(ended.error, WorkerRefused) for ended in found)
        self._watch.look(has_moved, len(self._attempts))
        return found + self._stranded()

    def _stranded(self) -> list[Ended]:
        """Attempts that no worker may take any more: all that they were meant for have gone."""
        keys = [
            key
            for key, attempt in self._attempts.items()
            if attempt.workers is not None and not self._watch.has_any_of(attempt.workers)
        ]
        return [Ended(self._forget(key), None, Stranded(), has_begun=False) for key in keys]

    def _forget(self, key: str) -> str:
        """Let go of an attempt; returns the name of its task."""
        attempt = self._attempts.pop(key)
        attempt.future.release()
        return attempt.name

    def _done_keys(self, limit_s: float) -> list[str]:
        """Attempts that Dask is done with; raises ClusterLost where it has dropped one."""
        keys: list[str] = []
        try:
            keys.append(self._done.get(timeout=limit_s))
            while True:
                keys.append(self._done.get_nowait())
        except Empty:
            pass
        futures = {key: self._attempts[key].future for key in keys if key in self._attempts}
        if any(future.status == "cancelled" for future in futures.values()):
            raise ClusterLost(GONE)
        for future in futures.values():
            if future.status == "lost":  # its worker died with the receipt: Dask runs it again
                future.add_done_callback(self._tell)
        return [key for key, future in futures.items() if future.status != "lost"]

    def _failed(self, key: str) -> Ended:
        error, worker = self._attempts[key].future.exception(), ""
        if isinstance(error, TaskFailed):
            worker, error = error.worker, error.error
        if isinstance(error, ImportError):  # of the task itself, or of what it is made of
            worker = worker or self._erred_on(key)
            error = WorkerRefused(worker, "", (f"it cannot import: {error}",))
        name = self._forget(key)
        return Ended(name, None, error, has_begun=name in self._begun, worker=worker)

    def _receipts(self, keys: list[str]) -> list[Ended]:
        """Fetch what the workers hold, all at once: one by one it takes most of the driver's time.
        A worker that died with a receipt is Dask's to replace, and we look again later."""
        futures = [self._attempts[key].future for key in keys]
        gather = partial(self._client.gather, futures, errors="skip", asynchronous=True)
        try:
            receipts = self._client.sync(gather, callback_timeout=RESULT_LIMIT_S)
        except TimeoutError:
            receipts = []
        except NOBODY_THERE as error:
            raise ClusterLost(GONE) from error
        if len(receipts) < len(keys):
            for future in futures:
                future.add_done_callback(self._tell)
            return []
        return [self._receipt(key, receipt) for key, receipt in zip(keys, receipts, strict=True)]

    def _receipt(self, key: str, receipt: Receipt[Any]) -> Ended:
        self._watch.has_seen(receipt.seconds)
        self._mean_s += (receipt.seconds - self._mean_s) / MEAN_OVER
        return Ended(self._forget(key), receipt)

    def _tell(self, future: Future[Any]) -> None:
        self._done.put(str(future.key))

    def _erred_on(self, key: str) -> str:
        """The worker where an attempt failed. The scheduler may not have our packages: what it
        runs is sent by value, as functions inside functions are."""

        def look(dask_scheduler: Any) -> str:
            return str(next(iter(dask_scheduler.tasks[key].erred_on or [""])))

        with asking():
            return str(self._client.run_on_scheduler(look, callback_timeout=ANSWER_LIMIT_S))

    def dismiss(self, refused: WorkerRefused) -> None:
        changed = compare(self._expected, self._rules.stamp())
        if changed:  # then it is not the worker that is wrong
            raise LostSight(
                f"something has changed since the job began: {'; '.join(changed)}. What is "
                "committed is kept: mend it and run the same command again"
            )
        self._watch.dismiss(refused)

    def close(self) -> None:
        with suppress(*NOBODY_THERE):  # then no event comes from it either
            self._client.unsubscribe_topic(self._topic)
        for key in list(self._attempts):
            self._forget(key)
