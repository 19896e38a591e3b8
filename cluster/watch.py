"""Is the cluster there, and does it move? Looked at while the loop waits for a task to end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed import Client

from cluster.client import ANSWER_LIMIT_S, GONE, NOBODY_THERE, ask, is_connected, workers_of
from cluster.guard import WorkerRefused
from cluster.rules import Rules
from cluster.settings import num_workers
from configs.console import counted, say
from configs.errors import ClusterFailed, ClusterLost

SLOWEST_TIMES = 5.0  # so many times the slowest task without any end is no accident
MOST_REFUSED = 3  # times the workers of a job: others would be no better
FIXED = {"local", "ssh", "address"}  # kinds that start no worker in place of one that goes
MEND = "start it anew, from this checkout and where it sees the run"
FIRST_WORD_S = 10.0  # of waiting for workers; each further word comes after twice the time


class Watch:
    """Counts the workers that may take this job's tasks, waits for the first with a word now and
    then, and raises where nothing goes on."""

    tick_s = 2.0

    def __init__(self, client: Client, rules: Rules[Any]) -> None:
        self._client, self._rules = client, rules
        self._refused: set[str] = set()
        self._workers: Mapping[str, Any] = {}
        self._most_slots = num_workers(rules.config)  # that were there, or are to come
        self._looked_s = self._moved_s = self._seen_s = time.monotonic()
        self._next_word_s = FIRST_WORD_S
        self._slowest_s = 0.0
        self.num_slots = self._count()

    def look(self, has_moved: bool, num_running: int) -> None:
        """Raises ClusterFailed when no worker came in time, ClusterLost when nothing moves."""
        now_s = time.monotonic()
        if has_moved or not num_running:
            self._moved_s = now_s
        if now_s - self._looked_s < self.tick_s:
            return
        self._looked_s = now_s
        if not is_connected(self._client):
            raise ClusterLost(GONE)
        self.num_slots = self._count()
        if self.num_slots:
            self._seen_s, self._next_word_s = now_s, FIRST_WORD_S
            self._check_stall(now_s - self._moved_s)
        else:
            self._moved_s = now_s
            self._wait(now_s - self._seen_s)

    def has_seen(self, task_s: float) -> None:
        """A task took so long: five times that is no reason to worry."""
        self._slowest_s = max(self._slowest_s, task_s)

    def dismiss(self, refused: WorkerRefused) -> None:
        """Let a worker go that must not work on this job. One of a cluster that others use, too, is
        only left alone. Raises ClusterFailed where no other will come, or none that is better."""
        worker, differences = refused.worker, "; ".join(refused.differences)
        if worker in self._refused:
            return
        self._refused.add(worker)
        who = f"({refused.who}) " if refused.who else ""
        say(f"worker {worker} {who}is refused: {differences}; {MEND}")
        if not self._is_shared:
            ask(self._client, "retire_workers", workers=[worker], close_workers=True)
        self.num_slots = self._count()
        is_fixed = self._rules.config.kind in FIXED
        if is_fixed and not self.num_slots:
            what = "and no other is left"
        elif len(self._refused) > MOST_REFUSED * self._most_slots:
            what = "and those that came in their place were no better"
        else:
            return
        cure = "`python -m cluster down`, then `up`" if self._is_shared else "run it again"
        raise ClusterFailed(
            f"{counted(len(self._refused), 'worker')} refused, {what}; the last one: "
            f"{differences}. To begin with new workers: {cure}"
        )

    @property
    def _is_shared(self) -> bool:
        return self._rules.config.kind == "address"

    def allowed(self, off: frozenset[str] = frozenset()) -> frozenset[str] | None:
        """The workers that may be given tasks; None: all. One that is refused stays where others
        use it, too; one of those `off` only where there is no other."""
        refused = frozenset(self._refused) if self._is_shared else frozenset()
        if not (refused or off):
            return None
        fit = frozenset(self._workers) - refused
        return fit - off or fit

    def has_any_of(self, workers: frozenset[str]) -> bool:
        """Whether one of them was there at the last look."""
        return not workers.isdisjoint(self._workers)

    def _count(self) -> int:
        """Threads of the workers that have what the tasks ask for."""
        self._workers = self._workers_now()
        able = [worker for where, worker in self._workers.items() if self._is_able(where, worker)]
        num_slots = sum(int(worker["nthreads"]) for worker in able)
        self._most_slots = max(self._most_slots, num_slots)
        return num_slots

    def _workers_now(self) -> Mapping[str, Any]:
        """Those that the scheduler knows; after a break, while the client looks for it, those that
        were there before. Raises ClusterLost where it is there and gives no answer."""
        if self._client.status == "connecting":
            return self._workers
        try:
            return workers_of(self._client)
        except ClusterLost as lost:
            if isinstance(lost.__cause__, TimeoutError) or not is_connected(self._client):
                raise
            return self._workers

    def _is_able(self, address: str, worker: Mapping[str, Any]) -> bool:
        has = worker.get("resources", {})
        asked = self._rules.resources
        return address not in self._refused and all(has.get(k, 0) >= n for k, n in asked.items())

    def _wait(self, seconds: float) -> None:
        wanted = "".join(f" with {k}={n:g}" for k, n in self._rules.resources.items())
        limit_s = self._rules.config.wait_for_workers_s
        refused = f" ({len(self._refused)} refused)" if self._refused else ""
        if seconds > limit_s:
            raise ClusterFailed(
                f"no worker{wanted} came within {limit_s:g} s{refused} "
                f"(cluster.wait_for_workers_s): {self._advice()}. What is committed is kept"
            )
        if seconds > self._next_word_s:
            self._next_word_s *= 2
            say(f"waiting for a worker{wanted}{refused}, {seconds:.0f} s so far")

    def _advice(self) -> str:
        if self._rules.resources:
            return "workers must offer that: cluster.worker_resources, or `dask worker --resources`"
        return "is the queue full, and do the workers' logs say why?"

    def _check_stall(self, seconds: float) -> None:
        limit_s = max(self._rules.config.stall_s, SLOWEST_TIMES * self._slowest_s)
        if seconds <= limit_s:
            return
        raise ClusterLost(
            f"no task has ended for {seconds:.0f} s (cluster.stall_s): "
            f"{dump_state(self._client, self._rules.home)}; run the same command again"
        )


def dump_state(client: Client, home: Path) -> str:
    """Write down what scheduler and workers know of themselves; says where, or why not."""
    stem = home / f"stall-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        client.dump_cluster_state(str(stem), format="yaml", callback_timeout=ANSWER_LIMIT_S)
    except NOBODY_THERE as error:
        return f"the cluster's state could not be had ({type(error).__name__}: {error})"
    return f"the cluster's state is in {stem.with_suffix('.yaml')}"
