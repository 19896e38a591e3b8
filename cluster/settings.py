"""Dask's settings for tasks like ours: long, independent, effects on disk, nothing in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import dask

from configs.cluster import ClusterConfig

INFO_INTERVAL = "60s"

# Tasks hold nothing between them, so Dask has nothing to spill. A worker's death is counted by
# `cluster.submit`, which knows more than Dask does: Dask gives the task back at once.
DASK_SETTINGS: dict[str, Any] = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.85,
    "distributed.worker.memory.terminate": 0.95,
    # Dask would give every freed block back to the system at once: arrays of tasks like ours are
    # mapped, and zeroed by the kernel, anew for every clip, which costs 40 % (`make bench
    # NAME=cluster`). A task's memory ends with its process.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # Scheduler, nannies, workers and clients look at themselves and each other up to 50 times a
    # second, which costs two busy cores a twentieth. Nobody needs to know so soon.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.client.scheduler-info-interval": INFO_INTERVAL,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.worker.memory.monitor-interval": "1s",
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-ttl": "120s",
    "distributed.admin.log-format": "%(name)s - %(message)s",
}
# After which Dask lets a worker's nanny, or job, go for good. It looks once, at that moment: a
# nanny whose worker happens to be dead again just then is gone, and only jobs are replaced.
LOST_AFTER, NEVER = {"slurm": "10s", "pbs": "10s"}, "365d"
LOOPBACK = "127.0.0.1"
ANY_LOOPBACK_PORT = f"{LOOPBACK}:0"
NUM_SUBMITTED = 4  # jobs or pods, unless the config says
DEATH_TIMEOUT_S = 60  # that a worker waits for a scheduler which is gone


def settings(config: ClusterConfig) -> dict[str, Any]:
    """Our settings with the config's own over them, as dotted names."""
    return {
        **DASK_SETTINGS,
        # It stops every worker's Python 100 times a second, for a page of the report.
        "distributed.worker.profile.enabled": config.performance_report,
        "distributed.deploy.lost-worker-timeout": LOST_AFTER.get(config.kind, NEVER),
        **dict(_dotted(config.dask)),
    }


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """The variables that Dask, elsewhere, reads such settings from. Names come back in lower case,
    so that a name in capitals (as of a variable for workers) travels inside of its section."""
    sections: dict[str, Any] = {}
    for name, value in settings.items():
        if name == name.lower():
            sections[name] = value
        else:
            section, _, key = name.rpartition(".")
            sections.setdefault(section, {})[key] = value
    return {_variable(name): _as_text(value) for name, value in sections.items()}


def _variable(name: str) -> str:
    return f"DASK_{name.replace('.', '__').replace('-', '_').upper()}"


def _as_text(value: Any) -> str:
    """Text that Dask reads back as the same value."""
    is_plain = isinstance(value, str) and dask.config.interpret_value(value) == value
    return value if is_plain else repr(value)


def num_workers(config: ClusterConfig) -> int:
    """The workers that a config asks for; where it does not say, what is usual for its kind."""
    if config.kind == "inline":
        return 1
    if config.kind == "ssh":
        return len(config.ssh.hosts) * config.ssh.workers_per_host
    usual = _num_cores() if config.kind in ("local", "address") else NUM_SUBMITTED
    return config.workers or usual


def _num_cores() -> int:
    """Cores that this process may use, where the system says; else all."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
