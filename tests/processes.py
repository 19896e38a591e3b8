"""The processes of this machine, as tests look at them, and waiting for what they do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any

import psutil

POLL_S = 0.01


def wait_until(holds: Callable[[], Any], what: str = "it", limit_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline_s, f"{what} did not happen within {limit_s:g} s"
        time.sleep(POLL_S)


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it; nothing where it is gone."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def of_groups(groups: Collection[int]) -> list[psutil.Process]:
    """What is at work in process groups."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) in groups and is_at_work(process):
                found.append(process)
    return found


def command_of(process: psutil.Process) -> str:
    """Its command line; empty where it is gone."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def is_at_work(process: psutil.Process) -> bool:
    """Alive, and not Python's own tracker, which stays until the end."""
    with suppress(psutil.NoSuchProcess):
        is_dead = process.status() == psutil.STATUS_ZOMBIE
        return not is_dead and "resource_tracker" not in command_of(process)
    return False


def dask_workers(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Dask's worker processes among them, which nannies start."""
    return [process for process in processes if "spawn_main" in command_of(process)]


def dead_pid() -> int:
    """Of a process that has ended, and was waited for."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid
