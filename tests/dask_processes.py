"""Real `dask scheduler` and `dask worker` processes, ended with all that they started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.settings import environment, settings
from cluster.tls import Keys
from configs.cluster import ClusterConfig
from tests.commands import ROOT
from tests.processes import dask_workers, family

LIMIT_S = 60.0
# Bokeh's pages, which nobody looks at, would cost each process half a second of its start.
PLAIN = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")
OURS = environment(settings(ClusterConfig()))  # idle, they leave the cores to others
QUICK = OURS | {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "6s"}


@dataclass(frozen=True)
class Started:
    """A process and what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, pattern: str) -> re.Match[str]:
        deadline_s = time.monotonic() + LIMIT_S
        while not (found := re.search(pattern, self.log.read_text(errors="replace"))):
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < deadline_s, f"no {pattern} in {self.log}"
            time.sleep(0.02)
        return found

    @property
    def workers(self) -> list[psutil.Process]:
        """The worker processes below a nanny."""
        return dask_workers(family(self.process.pid)[1:])


@contextmanager
def started(words: Sequence[str], log: Path, **env: str) -> Iterator[Started]:
    """A process in a session of its own; what it started ends with it."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*words],
            cwd=ROOT,
            env={**os.environ, **QUICK, **env},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield Started(process, log)
    finally:
        below = family(process.pid)[1:]
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for left in (*below, process):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                left.kill()
        process.wait(20)


def tls_words(keys: Keys | None) -> list[str]:
    if keys is None:
        return []
    return [
        *("--tls-ca-file", str(keys.ca), "--tls-cert", str(keys.cert), "--tls-key", str(keys.key))
    ]


@contextmanager
def scheduler(
    directory: Path, keys: Keys | None = None, host: str = "127.0.0.1", port: int = 0, **env: str
) -> Iterator[tuple[Started, str]]:
    """A scheduler process and its address."""
    protocol = "tls" if keys else "tcp"
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", host]
    words += ["--port", str(port), "--protocol", f"{protocol}://", *tls_words(keys)]
    words += [*PLAIN]
    with started(words, directory / "scheduler.log", **env) as process:
        found = process.wait_for(rf"Scheduler at: *({protocol}://\S+:\d+)")
        yield process, found.group(1)


@contextmanager
def worker(
    directory: Path, address: str, name: str, keys: Keys | None = None, prefix: Sequence[str] = ()
) -> Iterator[Started]:
    """A nanny with one worker, connected."""
    words = [*prefix, sys.executable, "-m", "distributed.cli.dask_worker", address, "--name", name]
    words += ["--nthreads", "1", *PLAIN, *tls_words(keys)]
    words += ["--death-timeout", "30", "--local-directory", str(directory / f"scratch-{name}")]
    with started(words, directory / f"{name}.log") as process:
        process.wait_for(r"Registered to")
        yield process
