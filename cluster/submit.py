"""Run idempotent tasks, a bounded number in flight, and hand back outcomes as they finish.

Dask runs a task at least once, sometimes twice; that is harmless because each task commits its
own effects exactly once. What failed for another reason than itself is tried again: a task whose
worker died (the second time alone, at the end, so that it takes no neighbour with it, and then in
halves, until the piece is found that kills), one that met a passing fault of a disk or network,
one that met a full disk, when there is room again.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from distributed import Client, KilledWorker

from cluster.engines import Ended, Engine, Here, Stranded, Workers
from cluster.guard import WorkerRefused
from cluster.isolate import isolate
from cluster.ledger import Ledger
from cluster.rules import Rules
from configs.errors import LostSight

FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
MOST_BYSTANDING = 3
KILLS_BEFORE_ALONE = 2  # a worker may be killed under any task, once
MOST_ATTEMPTS = 6
MOST_IO_ERRORS = 2
MOST_FAULTS = 3  # of disks and networks on a worker, of tasks that others did
LONG_S = 3600.0

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class WorkersLost(Exception):
    """A task whose workers died, every one."""

    def __init__(self, times: int, last: str) -> None:
        super().__init__(
            f"its worker died {times} times, at last ({last}) with no other task beside it: is a "
            "worker's memory too small (cluster.memory_limit, or memory_per_worker of the kind)?"
        )


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
    rules: Rules[Argument] | None = None,
) -> Iterator[Outcome[Argument, Result]]:
    """Call `function` on every argument; yields outcomes in the order in which they finish.

    With a client the calls run on its workers, under the mapping's keys; without one they run
    here, in order. An exception ends its own task only.

    Raises:
        ClusterFailed: no worker came in time, or none that fits.
        ClusterLost: the scheduler is gone, or nothing moves any more.
    """
    rules = rules or Rules()
    engine: Engine = Here() if client is None else Workers(client, rules)
    with closing(engine):
        yield from _Job(engine, function, Ledger(arguments), rules).outcomes()


@dataclass(frozen=True)
class _Job(Generic[Argument, Result]):
    """One call of `run_tasks`."""

    engine: Engine
    function: Callable[[Argument], Result]
    ledger: Ledger[Argument]
    rules: Rules[Argument]

    def outcomes(self) -> Iterator[Outcome[Argument, Result]]:
        ledger = self.ledger
        while ledger.is_open:
            self._start(ledger.take(self.engine.capacity))
            for ended in self.engine.ended(ledger.until_next_s(LONG_S)):
                outcome = self._settle(ended)
                if outcome is not None:
                    yield outcome

    def _start(self, names: Sequence[str]) -> None:
        """Begin attempts, together those that may run on the same workers."""
        alike: defaultdict[frozenset[str], dict[str, Argument]] = defaultdict(dict)
        for name in names:
            alike[self.ledger.off(name)][name] = self.ledger.arguments[name]
        for off, arguments in alike.items():
            self.engine.start(self.function, arguments, off)

    def _settle(self, ended: Ended) -> Outcome[Argument, Result] | None:
        """The outcome of an attempt; None where there will be another one."""
        name, receipt, error = ended.name, ended.receipt, ended.error
        if receipt is not None:
            self.rules.note(
                event="done", task=name, worker=receipt.worker, took_s=round(receipt.seconds, 3)
            )
            self._judge(receipt.worker, self.ledger.off(name))
            return Outcome(self.ledger.finish(name), receipt.result, None)
        if error is not None and self._tries_again(ended, error):
            return None
        if isinstance(error, KilledWorker):
            error = WorkersLost(self.ledger.failures(name, "killed") + 1, _worker_of(error))
        self.rules.note(event="failed", task=name, reason=describe(error))
        return Outcome(self.ledger.finish(name), None, error)

    def _judge(self, good: str, bad: frozenset[str]) -> None:
        """A task went well that had met a disk's or network's fault on other workers. One of which
        that is true again and again, and that does nothing well, has to go."""
        self.ledger.forgive(good, "fault")
        for worker in bad:
            if self.ledger.count(worker, "fault") == MOST_FAULTS:
                why = f"{MOST_FAULTS} tasks in a row failed there that went well elsewhere"
                self._dismiss(WorkerRefused(worker, "", (why,)))

    def _tries_again(self, ended: Ended, error: BaseException) -> bool:
        name = ended.name
        if isinstance(error, WorkerRefused):
            self._dismiss(error)
        if isinstance(error, WorkerRefused | Stranded):
            self.ledger.again(name)
            return True
        if self.ledger.attempts(name) + 1 >= MOST_ATTEMPTS:
            return False
        if isinstance(error, KilledWorker):
            return self._after_a_kill(name, error, ended.has_begun)
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return self._after_a_full_disk(name, error)
        if isinstance(error, OSError | LostSight):
            return self._after_a_fault(ended, error)
        return False

    def _dismiss(self, error: WorkerRefused) -> None:
        why = "; ".join(error.differences)
        self.rules.note(event="refused", worker=error.worker, name=error.who, reason=why)
        self.engine.dismiss(error)

    def _after_a_kill(self, name: str, error: KilledWorker, has_begun: bool) -> bool:
        """One that had not begun was a bystander, unless that happens too often: the word of its
        beginning may have died with the worker."""
        if not has_begun and self.ledger.count(name, "bystander") <= MOST_BYSTANDING:
            self.ledger.again(name)
            return True
        self.rules.note(event="killed", task=name, worker=_worker_of(error))
        kills = self.ledger.failures(name, "killed") + 1
        if kills < KILLS_BEFORE_ALONE:
            self._again_later(name, "killed", error)
            return True
        if self.ledger.is_alone:
            self._isolate(name)
        self.ledger.again_alone(name, "killed")
        return True

    def _isolate(self, name: str) -> None:
        """Leave out of a task what has just killed its worker, with nothing beside it."""
        if self.rules.bisection is None:
            return
        task = self.ledger.arguments[name]
        guilty = isolate(self.engine, name, task, self.rules.bisection)
        if guilty:
            self.rules.note(event="isolated", task=name, pieces=list(guilty))
            self.ledger.arguments[name] = self.rules.bisection.without(task, guilty)

    def _after_a_full_disk(self, name: str, error: OSError) -> bool:
        self.rules.note(event="full disk", task=name, reason=describe(error))
        if not self.rules.make_room(error, self.engine.num_slots):
            return False
        self._again_later(name, "full", error)
        return True

    def _after_a_fault(self, ended: Ended, error: BaseException) -> bool:
        """Of a disk or network: it may pass, or be the worker's own."""
        if self.ledger.failures(ended.name, "io") + 1 >= MOST_IO_ERRORS:
            return False
        if ended.worker:
            self.ledger.keep_off(ended.name, ended.worker)
        self._again_later(ended.name, "io", error)
        return True

    def _again_later(self, name: str, reason: str, error: BaseException) -> None:
        delay_s = self.ledger.again_later(name, reason)
        attempt = self.ledger.attempts(name) + 1
        self.rules.note(
            event="retry", task=name, reason=describe(error), attempt=attempt, delay_s=delay_s
        )


def _worker_of(error: KilledWorker) -> str:
    return str(getattr(error.last_worker, "address", error.last_worker))


def describe(error: Any) -> str:
    """One line for an error."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]
