"""One driver at a time: an flock that the kernel releases however the holder dies."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.errors import RunLocked
from configs.processes import is_alive

_HOLDER = re.compile(r"pid ([0-9]+) on (.+)")


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


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, or held it last, as the file says.

    `since_s` is when it took the lock, in seconds since 1970 by the clock of the file system.
    """

    pid: int
    host: str
    since_s: float

    @property
    def is_this_process(self) -> bool:
        return (self.pid, self.host) == (os.getpid(), socket.gethostname())

    @property
    def is_alive(self) -> bool | None:
        """None where that cannot be seen: on another host. (To try the lock would be to take it,
        for a moment in which a driver that starts is refused.)"""
        if self.host != socket.gethostname():
            return None
        return is_alive(self.pid)


def holder(path: Path) -> Holder | None:
    """Who holds, or held, the lock file at `path`; None where nobody has, or is about to."""
    try:
        match = _HOLDER.fullmatch(path.read_text(encoding="utf-8", errors="replace"))
        since_s = path.stat().st_mtime
    except OSError:
        return None
    return Holder(int(match[1]), match[2], since_s) if match else None
