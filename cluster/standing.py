"""A cluster that stands without a command: `up` leaves a keeper process that holds it, and a file
in the run that `status`, `down` and `cluster.kind=address` find it by."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from cluster.settings import LOOPBACK
from cluster.tls import Keys
from configs.errors import ClusterFailed, InputError
from configs.processes import is_alive

FILE_NAME, LOCK_NAME, CONFIG_NAME, LOG_NAME = (
    "standing.json",
    "keeper.lock",
    "keeper.yaml",
    "keeper.log",
)
START_LIMIT_S, STOP_LIMIT_S = 300.0, 90.0
POLL_S = 0.1
LOOK_LIMIT_S = 1.0  # for those that only look at the keeper's lock to let go of it
SHOWN_LINES = 5  # of a keeper's log that did not start


@dataclass(frozen=True)
class Standing:
    """Where a standing cluster is, and which process keeps it."""

    kind: str
    address: str
    dashboard: str
    host: str  # of the keeper
    pid: int
    started: str  # UTC
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @property
    def keys(self) -> Keys | None:
        if self.ca is None or self.cert is None or self.key is None:
            return None
        return Keys(Path(self.ca), Path(self.cert), Path(self.key))

    @property
    def is_kept_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_on_loopback(self) -> bool:
        """Whether only its own host can reach it."""
        return f"//{LOOPBACK}:" in self.address

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError or TypeError for text that is not a standing cluster."""
        tree: Any = json.loads(text)
        return cls(**tree)


def read_standing(home: Path) -> Standing | None:
    """The cluster that stands in a run, None where none does."""
    path = home / FILE_NAME
    try:
        return Standing.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise InputError(f"{path} is damaged: remove it, and end its keeper by hand") from None


def write_standing(home: Path, standing: Standing) -> None:
    replace_text(home / FILE_NAME, standing.to_json())


def replace_text(path: Path, text: str) -> None:
    """A reader finds the old file or the new one, also after a power failure."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _keeping(home: Path) -> Iterator[int | None]:
    """Hold the lock of the one keeper; gives its descriptor, or None where another process has it.
    A keeper inherits it, and the kernel lets go of it however that ends."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK_NAME).open("a") as file:
        deadline_s = time.monotonic() + LOOK_LIMIT_S
        while not (is_ours := _takes(file.fileno(), fcntl.LOCK_EX)):
            if time.monotonic() > deadline_s:
                break
            time.sleep(POLL_S)  # somebody may only look
        yield file.fileno() if is_ours else None


def is_kept(home: Path) -> bool:
    """Whether a keeper is at work on this host, or about to be."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK_NAME).open("a") as file:
        return not _takes(file.fileno(), fcntl.LOCK_SH)  # many may look at a time


def _takes(descriptor: int, lock: int) -> bool:
    try:
        fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def settled(home: Path) -> Standing | None:
    """The cluster that stands in a run, or None, when it is no longer starting or ending."""
    deadline_s = time.monotonic() + START_LIMIT_S
    while is_kept(home) and time.monotonic() < deadline_s:
        standing = read_standing(home)
        if standing is not None:
            return standing
        time.sleep(POLL_S)
    return read_standing(home)


def start_keeper(home: Path, config_text: str) -> Standing:
    """Start a keeper that outlives this process; returns what it holds once it stands.

    Raises ClusterFailed where another one is at work, or with the last lines of its log where it
    ends before it stands.
    """
    with _keeping(home) as lock:
        if lock is None:
            raise ClusterFailed(f"another `up` is at work; see {home / LOG_NAME}")
        (home / FILE_NAME).unlink(missing_ok=True)  # of a keeper that was killed
        replace_text(home / CONFIG_NAME, config_text)
        with (home / LOG_NAME).open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "cluster.keeper", str(home)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock],
            )
    try:
        return _when_it_stands(process, home)
    except BaseException:
        process.terminate()
        raise


def _when_it_stands(process: subprocess.Popen[bytes], home: Path) -> Standing:
    deadline_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline_s:
        standing = read_standing(home)
        if standing is not None:
            return standing
        if process.poll() is not None:
            break
        time.sleep(POLL_S)
    lines = (home / LOG_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    raise ClusterFailed("\n  ".join(["the cluster did not start:", *lines[-SHOWN_LINES:]]))


def stop_keeper(home: Path, standing: Standing) -> bool:
    """Ask the keeper on this host to end what it holds; False where it does not in time."""
    os.kill(standing.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + STOP_LIMIT_S
    while is_kept(home) or is_alive(standing.pid):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True
