"""What is asked of a scheduler: one that gives no answer is lost, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distributed import Client
from distributed.client import ClosedClientError

from configs.errors import ClusterLost

GONE = "the scheduler is gone; what is committed is kept: run the same command again"


@contextmanager
def asking() -> Iterator[None]:
    """Raises ClusterLost for what Dask raises when nobody is at the other end."""
    try:
        yield
    except (OSError, ClosedClientError, RuntimeError) as error:  # as of a loop that has ended
        raise ClusterLost(GONE) from error


def workers_of(client: Client) -> Mapping[str, Any]:
    """What the scheduler knows of each worker, by address."""
    with asking():
        known: Mapping[str, Any] = client.scheduler_info(n_workers=-1)
    if "workers" not in known:  # what a client knows that is looking for its scheduler
        raise ClusterLost(GONE)
    workers: Mapping[str, Any] = known["workers"]
    return workers
