"""Dask's client: connected, and asked. A scheduler that gives no answer is lost, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distributed import Client
from distributed.client import ClosedClientError

from cluster.tls import Keys
from configs.errors import ClusterFailed, ClusterLost

GONE = "the scheduler is gone; what is committed is kept: run the same command again"
# What Dask raises when nobody is at the other end; a loop that has ended is a RuntimeError.
NOBODY_THERE = (OSError, RuntimeError, ClosedClientError)
ANSWER_LIMIT_S = 60.0  # a scheduler that is stopped keeps its connections, and never answers


def connect(address: str, keys: Keys | None) -> Client:
    """A client of the scheduler; raises ClusterFailed where none answers, or refuses, within Dask's
    own limit (`distributed.comm.timeouts.connect`)."""
    try:
        return Client(address, security=keys and keys.security())
    except (OSError, RuntimeError) as error:
        raise ClusterFailed(f"no scheduler answers at {address}: {error}") from None


def is_connected(client: Client) -> bool:
    """Also while it looks for its scheduler after a break."""
    return client.status in ("running", "connecting")


@contextmanager
def asking() -> Iterator[None]:
    """Raises ClusterLost for what Dask raises when nobody is at the other end."""
    try:
        yield
    except NOBODY_THERE as error:
        raise ClusterLost(GONE) from error


def ask(client: Client, question: str, **details: Any) -> Any:
    """The answer of the scheduler to one of its calls; raises ClusterLost where none comes."""
    scheduler: Any = client.scheduler
    with asking():
        call = getattr(scheduler, question)
        return client.sync(call, callback_timeout=ANSWER_LIMIT_S, **details)


def workers_of(client: Client) -> Mapping[str, Any]:
    """What the scheduler knows of each worker, by address, now. (`Client.scheduler_info` gives what
    was known, at times without its workers.)"""
    workers: Mapping[str, Any] = ask(client, "identity", n_workers=-1)["workers"]
    return workers
