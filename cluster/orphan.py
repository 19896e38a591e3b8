"""A preload of schedulers that run away from the driver: without a client for a while they end, and
with them their workers. A driver that was killed cannot do it, and sshd ends nothing for it."""

from __future__ import annotations

import asyncio
from typing import Any

import dask
from distributed import SchedulerPlugin

LIMIT, USUAL_LIMIT = "audiolex.orphaned-after", "120s"
START_S = 600  # that the first client may take: it comes when the slowest host has its workers
NOBODY = {"fire-and-forget"}  # a client that every scheduler has


class EndAlone(SchedulerPlugin):
    """Closes the scheduler when its last client has been gone for so long."""

    name = "end-alone"

    def __init__(self, scheduler: Any, limit_s: float) -> None:
        self._scheduler, self._limit_s = scheduler, limit_s
        self._set_timer(START_S)

    def _set_timer(self, limit_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(limit_s, self._end)

    def _end(self) -> None:
        self._ending = asyncio.ensure_future(self._scheduler.close(reason="no client is left"))

    def add_client(self, scheduler: Any, client: str) -> None:
        self._look_at(scheduler.clients.keys() | {client})

    def remove_client(self, scheduler: Any, client: str) -> None:
        self._look_at(scheduler.clients.keys() - {client})

    def _look_at(self, clients: set[str]) -> None:
        self._timer.cancel()
        if not clients - NOBODY:
            self._set_timer(self._limit_s)


async def dask_setup(scheduler: Any) -> None:
    limit_s = dask.utils.parse_timedelta(dask.config.get(LIMIT, USUAL_LIMIT))
    scheduler.add_plugin(EndAlone(scheduler, limit_s))
