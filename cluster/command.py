"""The command line of a Dask worker, for those that start one where no class of Dask's does."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.settings import ANY_LOOPBACK_PORT, DEATH_TIMEOUT_S


def worker_words(
    memory_limit: str, resources: Mapping[str, float], dashboard: str = ANY_LOOPBACK_PORT
) -> list[str]:
    """Of one thread, which waits for a lost scheduler no longer than all workers do."""
    words = ["--nthreads", "1", "--memory-limit", memory_limit]
    words += ["--death-timeout", str(DEATH_TIMEOUT_S)]
    return [*words, *dashboard_words(dashboard), *resource_words(resources)]


def dashboard_words(address: str = ANY_LOOPBACK_PORT) -> list[str]:
    return ["--dashboard-address", address]


def resource_words(resources: Mapping[str, float]) -> list[str]:
    """What the worker offers; no words for nothing."""
    offered = " ".join(f"{name}={amount:g}" for name, amount in resources.items())
    return ["--resources", offered] if offered else []
