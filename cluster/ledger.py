"""Which tasks wait, run, wait for another attempt, or must run alone; how often each was tried."""

from __future__ import annotations

import heapq
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from typing import Generic, TypeVar

Argument = TypeVar("Argument")

FIRST_DELAY_S, MOST_DELAY_S = 1.0, 30.0


class Ledger(Generic[Argument]):
    """The state of a job's tasks, by name; every task is in one state at a time."""

    def __init__(self, arguments: Mapping[str, Argument]) -> None:
        self.arguments = dict(arguments)
        self.is_alone = False  # what runs now is one task that must have no other beside it
        self._waiting = deque(self.arguments)
        self._later: list[tuple[float, str]] = []
        self._alone: deque[str] = deque()
        self._running: set[str] = set()
        self._reasons: defaultdict[str, list[str]] = defaultdict(list)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._off: defaultdict[str, set[str]] = defaultdict(set)

    @property
    def is_open(self) -> bool:
        return bool(self._waiting or self._later or self._alone or self._running)

    def take(self, most: int) -> list[str]:
        """The tasks to start now, so that no more than `most` run."""
        while self._later and self._later[0][0] <= time.monotonic():
            self._waiting.append(heapq.heappop(self._later)[1])
        if not self._running:
            self.is_alone = bool(self._alone) and not (self._waiting or self._later)
        if self.is_alone:
            taken = [self._alone.popleft()] if most and not self._running else []
        else:
            free = max(0, most - len(self._running))
            taken = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        self._running.update(taken)
        return taken

    def until_next_s(self, most: float) -> float:
        """Seconds until a task that waits for its next attempt is due, at most `most`."""
        if not self._later:
            return most
        return min(most, max(0.0, self._later[0][0] - time.monotonic()))

    def attempts(self, name: str) -> int:
        """Attempts at a task so far that failed, but for a full disk, which limits itself."""
        return len(self._reasons[name]) - self.failures(name, "full")

    def failures(self, name: str, reason: str) -> int:
        return self._reasons[name].count(reason)

    def count(self, name: str, what: str) -> int:
        """How often something has now happened to a task, or a worker, that may not be to blame."""
        self._counts[name, what] += 1
        return self._counts[name, what]

    def forgive(self, name: str, what: str) -> None:
        """Count from nothing again."""
        del self._counts[name, what]

    def keep_off(self, name: str, worker: str) -> None:
        """Let a task's next attempts run elsewhere."""
        self._off[name].add(worker)

    def off(self, name: str) -> frozenset[str]:
        """The workers that a task was not to run on."""
        return frozenset(self._off.get(name, ()))

    def finish(self, name: str) -> Argument:
        """The task is done with; returns its argument."""
        self._running.remove(name)
        return self.arguments[name]

    def again(self, name: str) -> None:
        """Another attempt, next of all, for a reason that is not the task's own."""
        self._running.remove(name)
        self._waiting.appendleft(name)

    def again_later(self, name: str, reason: str) -> float:
        """Another attempt after a while, twice as long each time; returns the seconds."""
        self._running.remove(name)
        self._reasons[name].append(reason)
        delay_s: float = min(MOST_DELAY_S, FIRST_DELAY_S * 2.0 ** (len(self._reasons[name]) - 1))
        heapq.heappush(self._later, (time.monotonic() + delay_s, name))
        return delay_s

    def again_alone(self, name: str, reason: str) -> None:
        """Another attempt with nothing beside it, when all others are done."""
        self._running.remove(name)
        self._reasons[name].append(reason)
        self._alone.append(name)
