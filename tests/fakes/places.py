"""One real cluster of every kind on this machine, and how to find the processes it started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.settings import environment, settings
from configs.cluster import ClusterConfig
from tests.commands import ROOT
from tests.fakes import batch_system
from tests.fakes.ssh_server import HOST, ssh_server

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
        groups = set(self.groups())
        found = {process.pid: process for process in family(driver)}
        for process in psutil.process_iter():
            with suppress(ProcessLookupError):
                if os.getpgid(process.pid) in groups:
                    found[process.pid] = process
        return [process for process in found.values() if is_at_work(process)]

    def workers(self, driver: int) -> list[psutil.Process]:
        """Dask's worker processes, which nannies start."""
        return [found for found in self.processes(driver) if "spawn_main" in command_of(found)]


def family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def command_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def is_at_work(process: psutil.Process) -> bool:
    """Alive, and not Python's own tracker, which stays until the end."""
    with suppress(psutil.NoSuchProcess):
        is_dead = process.status() == psutil.STATUS_ZOMBIE
        return not is_dead and "resource_tracker" not in command_of(process)
    return False


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
        wait_for(file.exists, "the scheduler's file")
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


def wait_for(is_so: Callable[[], bool], what: str, limit_s: float = START_LIMIT_S) -> None:
    deadline_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"{what}: not within {limit_s:g} s"
        time.sleep(0.01)


PLACES: dict[str, Callable[[Path], AbstractContextManager[Place]]] = {
    "inline": inline,
    "local": local,
    "address": address,
    "ssh": ssh,
    "slurm": slurm,
    "pbs": pbs,
}
