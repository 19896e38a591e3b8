"""One driver at a time: an flock that the kernel releases however the holder dies."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import RunLocked


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`; raises RunLocked with the holder's pid and host."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLocked(_who_holds(path)) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _who_holds(path: Path) -> str:
    holder = path.read_text(encoding="utf-8") or "another process"
    return f"{path.parent}: {holder} is at work here; wait for it, or stop it and run this again"
