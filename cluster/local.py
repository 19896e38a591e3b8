"""Worker processes on this machine, on loopback."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

from distributed import Client, LocalCluster

from cluster.settings import ANY_LOOPBACK_PORT, INFO_INTERVAL, LOOPBACK, num_workers
from configs.cluster import ClusterConfig


@contextmanager
def local(config: ClusterConfig, _: Path) -> Iterator[Client]:
    """Workers are processes with one thread each: a crash costs one task, and decoding never waits
    for another task's Python."""
    with _starting(config) as cluster, Client(cluster) as client:
        yield client


def _starting(config: ClusterConfig) -> LocalCluster:
    """Ctrl-C in a terminal reaches every process of the group: workers, which inherit the mask
    that the cluster's threads are started with, leave it to the driver."""
    resource_tracker.ensure_running()  # its start, later, would lift the mask again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return LocalCluster(
            n_workers=num_workers(config),
            threads_per_worker=1,
            memory_limit=config.memory_limit,
            resources=dict(config.worker_resources) or None,
            host=LOOPBACK,
            dashboard_address=ANY_LOOPBACK_PORT,
            scheduler_sync_interval=INFO_INTERVAL,
            silence_logs=logging.CRITICAL,  # a task's error is its outcome; the rest is goodbyes
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
