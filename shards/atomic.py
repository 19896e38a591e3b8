"""Files appear whole or not at all: written under `partial/`, synced, then renamed or linked.

The order is always the same, and a test reads it off a system call trace: write, fsync the file,
rename (or link) to the final name, fsync the directory that holds the name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

OF_WRITES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no read meets these


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_durable: set[Path] = set()  # directories whose names this process has synced


def make_directory(path: Path) -> None:
    """`mkdir -p`, with every name that it creates made durable, and the last one even if another
    process has created it: that one may have died before its sync."""
    if path.is_dir():
        if path not in _durable:
            sync_directory(path.parent)
    else:
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)
    _durable.add(path)


class Attempt:
    """A private directory under `partial/` for one attempt at one task; gone afterwards.

    Two attempts at the same task never touch each other's files, and a killed one leaves only its
    directory, which the next driver sweeps away.
    """

    def __init__(self, partial: Path, label: str) -> None:
        self.directory = partial / f"{label}-{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno in OF_WRITES and error.filename is None:
            error.filename = str(self.directory)  # a write does not say which disk is full
        shutil.rmtree(self.directory, ignore_errors=True)

    def path(self, name: str) -> Path:
        """Where to write a partial file."""
        return self.directory / name

    def publish(self, name: str, final: Path) -> None:
        """Sync the partial file `name` and rename it to `final`, replacing what stands there."""
        sync_file(self.path(name))
        make_directory(final.parent)
        self.path(name).replace(final)
        sync_directory(final.parent)

    def publish_directory(self, name: str, final: Path) -> None:
        """Sync a partial directory with all its files and rename it to `final`."""
        for path in self.path(name).iterdir():
            sync_file(path)
        sync_directory(self.path(name))
        make_directory(final.parent)
        self.path(name).rename(final)
        sync_directory(final.parent)

    def create(self, name: str, final: Path) -> bool:
        """Like publish, but the first one stands: False (and nothing done) where `final` exists."""
        sync_file(self.path(name))
        make_directory(final.parent)
        try:
            os.link(self.path(name), final)
            created = True
        except FileExistsError:
            created = False
        sync_directory(final.parent)  # also another attempt's name, which the caller relies on
        return created


def write_whole(partial: Path, final: Path, data: bytes) -> None:
    """Replace `final` by `data` in one step."""
    with Attempt(partial, final.name) as attempt:
        attempt.path("data").write_bytes(data)
        attempt.publish("data", final)


def create_whole(partial: Path, final: Path, data: bytes) -> bool:
    """Create `final` holding `data` unless it exists; True if this call created it."""
    with Attempt(partial, final.name) as attempt:
        attempt.path("data").write_bytes(data)
        return attempt.create("data", final)


def sweep(partial: Path) -> None:
    """Remove what killed attempts left. Only for the driver that holds the run's lock."""
    if partial.is_dir():
        for leftover in partial.iterdir():
            shutil.rmtree(leftover, ignore_errors=True)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)
