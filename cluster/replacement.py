"""Lost jobs of a batch system are replaced, whoever ended them."""

from __future__ import annotations

import asyncio
import re
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dask
from distributed import SchedulerPlugin, Status
from distributed.deploy.adaptive import Adaptive

from configs.console import say

ASK_EVERY_S = 20.0
UNKNOWN_JOB = re.compile(r"invalid job id|unknown job|has finished", re.IGNORECASE)

ListJobs = Callable[[Sequence[str]], list[str]]


class Arrivals(SchedulerPlugin):
    """The names of workers that ever came, so that a short visit is seen, too."""

    name = "arrivals"

    def __init__(self) -> None:
        self.names: set[str] = set()

    def add_worker(self, scheduler: Any, worker: str) -> None:
        self.names.add(str(scheduler.workers[worker].name))


class ReplaceLost(Adaptive):
    """Replaces lost jobs, and retires no worker for being idle where minimum is maximum.

    Adaptive submits again what is planned and not there. That a job is not there any more, Dask
    sees only for jobs of one worker that came; here for those of several (all of them came and are
    gone), and for those of which none ever came: the batch system is asked whether it knows them.
    A job that the batch system refused counts as one that is there; it is submitted again.
    """

    cluster: Any

    def __init__(self, *args: Any, list_jobs: ListJobs, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._list_jobs = list_jobs
        self._asked_s = time.monotonic()
        self._last_seen_s: dict[str, float] = {}

    async def recommendations(self, target: int) -> dict[str, Any]:
        for name in [*self._lost(), *await self._absent()]:
            job = self.cluster.workers.pop(name, None)
            if job is not None:
                if job.refusal:
                    say(f"warning: a lost job was not replaced: {job.refusal}; trying again")
                await job.close()  # or the batch system might run it again
                job.status = Status.closed  # which Dask looks at, and jobs do not say
        found: dict[str, Any] = await super().recommendations(target)
        return found

    def _workers_of(self, name: str) -> set[str]:
        suffixes = self.cluster.worker_spec[name].get("group", ("",))
        return {f"{name}{suffix}" for suffix in suffixes}

    def _arrived(self) -> set[str]:
        arrived: set[str] = self.cluster.scheduler.plugins[Arrivals.name].names
        return arrived

    def _lost(self) -> Iterator[str]:
        """Jobs of several workers that came, and are gone for longer than a nanny needs."""
        now_s, observed, arrived = time.monotonic(), self.observed, self._arrived()
        limit_s = dask.utils.parse_timedelta(
            dask.config.get("distributed.deploy.lost-worker-timeout")
        )
        for name in [name for name, spec in self.cluster.worker_spec.items() if "group" in spec]:
            workers = self._workers_of(name)
            if workers & observed:
                self._last_seen_s[name] = now_s
            elif workers & arrived and now_s - self._last_seen_s.setdefault(name, now_s) > limit_s:
                arrived -= workers
                del self._last_seen_s[name]
                yield name

    async def _absent(self) -> list[str]:
        """Jobs without a worker now that the batch system does not know any more, or never took."""
        jobs, observed = self.cluster.workers, self.observed
        silent = [name for name in jobs if not self._workers_of(name) & observed]
        if not silent or time.monotonic() - self._asked_s < ASK_EVERY_S:
            return []
        self._asked_s = time.monotonic()
        refused = [name for name in silent if jobs[name].job_id is None]
        taken = {str(jobs[name].job_id): name for name in silent if name not in refused}
        known = await _known(self._list_jobs(list(taken))) if taken else set()
        lost = [] if known is None else [taken[job] for job in taken if job not in known]
        return [*refused, *lost]


async def _known(command: Sequence[str]) -> set[str] | None:
    """The numbers of the jobs that a command lists; None where it cannot be told."""
    try:
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    except OSError:
        return None
    printed, complaints = (data.decode(errors="replace") for data in await process.communicate())
    if process.returncode != 0 and not UNKNOWN_JOB.search(complaints):
        return None
    return {line.split()[0].partition(".")[0] for line in printed.splitlines() if line.strip()}
