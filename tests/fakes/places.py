"""One real cluster of every kind on this machine, and how to find the processes it started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.settings import environment, settings
from configs.cluster import ClusterConfig
from tests.commands import ROOT
from tests.fakes import batch_system
from tests.fakes.ssh_server import HOST, ssh_server
from tests.processes import dask_workers, family, is_at_work, of_groups, wait_until

NUM_WORKERS = 2
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class Place:
    """A kind's `cluster` section, and the process groups that it has started so far."""

    config: dict[str, Any]
    groups: Callable[[], list[int]] = list
    is_ours: bool = True  # started by the launcher, which must end it

    def processes(self, driver: int) -> list[psutil.Process]:
        """What runs of it: the driver, what is below that, and its groups."""
        found = [*family(driver), *of_groups(set(self.groups()))]
        return [process for process in dict.fromkeys(found) if is_at_work(process)]

    def workers(self, driver: int) -> list[psutil.Process]:
        """Dask's worker processes, which nannies start."""
        return dask_workers(self.processes(driver))


@contextmanager
def inline(_: Path) -> Iterator[Place]:
    yield Place({"kind": "inline"})


@contextmanager
def local(_: Path) -> Iterator[Place]:
    yield Place({"kind": "local", "workers": NUM_WORKERS})


@contextmanager
def address(directory: Path) -> Iterator[Place]:
    """The commands `dask scheduler` and `dask worker`, as somebody else would start them."""
    file = directory / "scheduler.json"
    where = ["--scheduler-file", str(file), "--host", HOST, "--dashboard-address", f"{HOST}:0"]
    workers = ["--nworkers", str(NUM_WORKERS), "--nthreads", "1", "--death-timeout", "30"]
    started = [start("dask_scheduler", *where, "--port", "0")]
    try:
        wait_until(file.exists, "the scheduler's file", START_LIMIT_S)
        started.append(start("dask_worker", *where, *workers))
        scheduler = ClusterConfig().address.model_dump() | {"scheduler": address_in(file)}
        config = {"kind": "address", "address": scheduler}
        yield Place(config, lambda: [process.pid for process in started], is_ours=False)
    finally:
        for process in reversed(started):  # a worker that comes back just then waits in vain
            process.terminate()
            process.wait(START_LIMIT_S)


def start(command: str, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{command}", *words],
        cwd=ROOT,
        env={**os.environ, **environment(settings(ClusterConfig()))},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def address_in(scheduler_file: Path) -> str:
    return str(json.loads(scheduler_file.read_text())["address"])


@contextmanager
def ssh(directory: Path) -> Iterator[Place]:
    with ssh_server(directory) as server:
        section = {
            "hosts": [HOST],
            "port": server.port,
            "known_hosts": str(server.known_hosts),
            "private_key": str(server.private_key),
            "workers_per_host": NUM_WORKERS,
        }
        yield Place({"kind": "ssh", "ssh": section}, lambda: server.groups)


@contextmanager
def slurm(directory: Path) -> Iterator[Place]:
    with on_fake_system("slurm", directory) as place:
        yield place


@contextmanager
def pbs(directory: Path) -> Iterator[Place]:
    with on_fake_system("pbs", directory) as place:
        yield place


@contextmanager
def on_fake_system(kind: str, directory: Path) -> Iterator[Place]:
    before = dict(os.environ)
    os.environ.update(batch_system.install(directory / "batch system"))
    jobs = Path(os.environ[batch_system.STATE])
    config = {
        "kind": kind,
        "workers": NUM_WORKERS,
        kind: {"interface": "lo", "memory_per_worker": "1GiB"},
    }
    try:
        yield Place(config, lambda: batch_system.groups(jobs))
    finally:
        os.environ.clear()
        os.environ.update(before)


PLACES: dict[str, Callable[[Path], AbstractContextManager[Place]]] = {
    "inline": inline,
    "local": local,
    "address": address,
    "ssh": ssh,
    "slurm": slurm,
    "pbs": pbs,
}
