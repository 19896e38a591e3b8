"""Is the cluster there, and does it move? Looked at while the loop waits for a task to end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed import Client

from cluster.client import GONE, asking, workers_of
from cluster.rules import Rules
from cluster.settings import num_workers
from configs.console import counted, say
from configs.errors import ClusterFailed, ClusterLost

SLOWEST_TIMES = 5.0  # so many times the slowest task without any end is no accident
MOST_REFUSED = 3  # times the workers that a job asks for: others would be no better
FIRST_WORD_S = 10.0  # of waiting for workers; each further word comes after twice the time


class Watch:
    """Counts the workers that may take this job's tasks, waits for the first with a word now and
    then, and raises where nothing goes on."""

    tick_s = 1.0

    def __init__(self, client: Client, rules: Rules[Any]) -> None:
        self._client, self._rules = client, rules
        self._refused: dict[str, str] = {}
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
        if self._client.status not in ("running", "connecting"):
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

    def dismiss(self, worker: str, why: str) -> None:
        """Let a worker go that must not work on this job. One of a cluster that others use, too, is
        only left alone. Raises ClusterFailed where no other will come, or none that is better."""
        if worker in self._refused:
            return
        self._refused[worker] = why
        say(f"worker {worker} {why}")
        is_ours = self._rules.config.kind != "address"
        if is_ours:
            with asking():
                self._client.retire_workers([worker], close_workers=True)
        self.num_slots = self._count()
        most = MOST_REFUSED * num_workers(self._rules.config)
        is_fixed = self._rules.config.kind in ("address", "local")
        if len(self._refused) > most or (is_fixed and not self.num_slots):
            cure = "run it again" if is_ours else "`python -m cluster down`, then `up`"
            raise ClusterFailed(
                f"{counted(len(self._refused), 'worker')} refused, and no other is left; the last "
                f"one {why}. To begin with new workers: {cure}"
            )

    def allowed(self) -> list[str] | None:
        """The workers that may be given tasks; None: all of them."""
        if not self._refused:
            return None
        return [address for address in workers_of(self._client) if address not in self._refused]

    def _count(self) -> int:
        """Threads of the workers that have what the tasks ask for."""
        workers = workers_of(self._client).items()
        able = [worker for address, worker in workers if self._is_able(address, worker)]
        return sum(int(worker["nthreads"]) for worker in able)

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
        where = dump_state(self._client, self._rules.home)
        raise ClusterLost(
            f"no task has ended for {seconds:.0f} s (cluster.stall_s): the cluster's state is in "
            f"{where}; run the same command again"
        )


def dump_state(client: Client, home: Path) -> Path:
    """Write what scheduler and workers know of themselves; returns the file."""
    home.mkdir(parents=True, exist_ok=True)
    stem = home / f"stall-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    client.dump_cluster_state(str(stem), format="yaml")
    return stem.with_suffix(".yaml")
