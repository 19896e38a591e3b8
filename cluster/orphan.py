"""A preload of schedulers that run away from the driver: without a client for a while they end, and
with them their workers. A driver that was killed cannot do it, and sshd ends nothing for it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import dask

LIMIT, USUAL_LIMIT = "audiolex.orphaned-after", "120s"
LOOKS = 10  # while that passes
START_S = 600  # that the first client may take: it comes when the slowest host has its workers
NOBODY = {"fire-and-forget"}  # a client that every scheduler has
_watches: set[asyncio.Task[None]] = set()


async def dask_setup(scheduler: Any) -> None:
    limit_s = dask.utils.parse_timedelta(dask.config.get(LIMIT, USUAL_LIMIT))
    watch = asyncio.create_task(_end_when_left(scheduler, limit_s))
    _watches.add(watch)
    watch.add_done_callback(_watches.discard)


async def _end_when_left(scheduler: Any, limit_s: float) -> None:
    last_seen_s = time.monotonic() + START_S
    while time.monotonic() - last_seen_s <= limit_s:
        await asyncio.sleep(limit_s / LOOKS)
        if scheduler.clients.keys() - NOBODY:
            last_seen_s = time.monotonic()
    await scheduler.close(reason="no client is left")
