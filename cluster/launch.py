"""Open and close the place where tasks run. Each kind is one function in `LAUNCHERS`, which starts
what it needs, gives a connected client, and leaves no process behind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path

import dask
from distributed import Client

from cluster.address import address
from cluster.client import workers_of
from cluster.faults import require_sound
from cluster.kubernetes import kubernetes
from cluster.local import local
from cluster.queues import queue
from cluster.report import dashboard
from cluster.settings import settings
from cluster.ssh import ssh
from configs.cluster import ClusterConfig
from configs.console import counted, say

NOISY = ("distributed", "distributed.client", "asyncio", "tornado.application")

OpenClient = Callable[[], Client | None]
Launcher = Callable[[ClusterConfig, Path], AbstractContextManager[Client]]

LAUNCHERS: dict[str, Launcher] = {
    "local": local,
    "address": address,
    "ssh": ssh,
    "slurm": queue,
    "pbs": queue,
    "kubernetes": kubernetes,
}


@contextmanager
def open_client(config: ClusterConfig, home: Path) -> Iterator[OpenClient]:
    """A function that gives the Dask client, or None for `inline`, opening it when first called:
    a job with nothing left to do starts no process. Leaves no process behind.

    Args:
        config: which place, and its details.
        home: a directory that all hosts see, for keys and logs; made when needed.

    Raises:
        ClusterFailed: the cluster cannot be had.
        ConfigError: it asks for what is not there, or not safe; all such faults at once.
    """
    with ExitStack() as stack:
        if config.kind == "inline":
            yield lambda: None
        else:
            yield cache(lambda: stack.enter_context(_opened(config, home)))


@contextmanager
def _opened(config: ClusterConfig, home: Path) -> Iterator[Client]:
    require_sound(config, home)
    with (
        dask.config.set(settings(config)),
        _silent(),
        LAUNCHERS[config.kind](config, home) as client,
    ):
        count = counted(len(workers_of(client)), "worker")
        say(f"{config.kind} cluster: {count} so far, Dask's dashboard at {dashboard(client)}")
        yield client


@contextmanager
def _silent() -> Iterator[None]:
    """What Dask logs of a scheduler that went away reaches the user as one error, not as these."""
    loggers = [logging.getLogger(name) for name in NOISY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
