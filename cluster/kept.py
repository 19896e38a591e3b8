"""The number of a batch system's jobs kept, whoever ends them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import dask
from distributed import SchedulerPlugin
from distributed.deploy.adaptive import Adaptive


class Arrivals(SchedulerPlugin):
    """The names of workers that ever came, so that a short visit is seen, too."""

    name = "arrivals"

    def __init__(self) -> None:
        self.names: set[str] = set()

    def add_worker(self, scheduler: Any, worker: str) -> None:
        self.names.add(str(scheduler.workers[worker].name))


class KeptJobs(Adaptive):
    """Replaces lost jobs, and retires no worker for being idle where minimum is maximum.

    Adaptive submits again what is planned and not there. That a job is not there any more, Dask
    sees only for jobs of one worker; here for those of several: all of them came and are gone.
    """

    cluster: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last_seen_s: dict[str, float] = {}

    async def recommendations(self, target: int) -> dict[str, Any]:
        for name in list(self._lost()):
            job = self.cluster.workers.pop(name, None)
            if job is not None:
                await job.close()  # or the batch system might run it again
        found: dict[str, Any] = await super().recommendations(target)
        return found

    def _lost(self) -> Iterator[str]:
        """Jobs that had workers, and have had none for longer than a nanny needs."""
        now_s, observed = time.monotonic(), self.observed
        arrived: set[str] = self.cluster.scheduler.plugins[Arrivals.name].names
        limit_s = dask.utils.parse_timedelta(
            dask.config.get("distributed.deploy.lost-worker-timeout")
        )
        for name, spec in self.cluster.worker_spec.items():
            workers = {f"{name}{suffix}" for suffix in spec.get("group", ())}
            if workers & observed:
                self._last_seen_s[name] = now_s
            elif workers & arrived and now_s - self._last_seen_s.setdefault(name, now_s) > limit_s:
                arrived -= workers
                del self._last_seen_s[name]
                yield name
