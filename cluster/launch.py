"""Open and close the place where tasks run: this process, or local Dask worker processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import dask
from distributed import Client, LocalCluster

from configs.schema import ClusterConfig

# Tasks hold nothing between them, so Dask has nothing to spill; everything stays on loopback.
DASK_SETTINGS = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.85,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.worker-ttl": "120s",
    "distributed.admin.log-format": "%(name)s - %(message)s",
}


def num_workers(config: ClusterConfig) -> int:
    return config.workers or _num_cores()


def _num_cores() -> int:
    """Cores that this process may use, where the system says; else all."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


OpenClient = Callable[[], Client | None]


@contextmanager
def open_client(config: ClusterConfig) -> Iterator[OpenClient]:
    """A function that gives the Dask client, or None for `inline`, opening it when first called:
    a job with nothing left to do starts no process. Leaves no process behind.

    Workers are processes with one thread each: a crash costs one task, and decoding never waits
    for another task's Python.
    """
    with ExitStack() as stack:
        if config.kind == "inline":
            yield lambda: None
        else:
            yield cache(lambda: stack.enter_context(_local(config)))


@contextmanager
def _local(config: ClusterConfig) -> Iterator[Client]:
    with (
        dask.config.set(DASK_SETTINGS),
        LocalCluster(
            n_workers=num_workers(config),
            threads_per_worker=1,
            memory_limit=config.memory_limit,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,  # a task's error is its outcome; the rest is goodbyes
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
