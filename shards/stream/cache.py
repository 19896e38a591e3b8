"""Copies of remote files on this machine's disk, within a bound that several processes share.

A file is named `<sha256>.shard`, and `<sha256>.shard.partial` while it is fetched. All that
processes know of each other are flocks, which the kernel releases however their holder ends: a
shared one on a file that is in use, an exclusive one on a partial, and one on `lock` while names
come and go.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from configs.errors import CacheFull, InputError
from shards.atomic import sync_directory
from shards.commit import FileRecord

PARTIAL, DAMAGED = ".partial", ".damaged"
_OURS = re.compile(r"[0-9a-f]{64}\.shard(\.partial|\.damaged)?")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Partial:
    """A file that is being fetched, in its full size from the start: its room is taken. Gone after
    the context unless it was kept."""

    def __init__(self, cache: Cache, path: Path, record: FileRecord) -> None:
        self._cache, self._path, self._record, self._is_kept = cache, path, record, False
        self._file: IO[bytes] = path.open("x+b", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with self._room_to_write():
            os.truncate(self._file.fileno(), record.bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        if not self._is_kept:
            with self._cache.locked():
                self._path.unlink(missing_ok=True)
            self._file.close()

    def begin(self) -> None:
        """Write from the start again."""
        self._file.seek(0)

    def write(self, data: bytes) -> None:
        """Raises OSError with the place and the bytes needed where the disk is full."""
        with self._room_to_write():
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]

    def keep(self) -> IO[bytes]:
        """Give the file its name; returns it as `Cache.find` does."""
        with self._room_to_write():
            os.fsync(self._file.fileno())
        with self._cache.locked():
            self._path.rename(self._path.with_suffix(""))
        self._is_kept = True
        sync_directory(self._path.parent)
        fcntl.flock(self._file, fcntl.LOCK_SH)
        return self._file

    @contextmanager
    def _room_to_write(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = error.strerror
            if error.errno in _FULL:
                what = f"no room for {self._record.path}, {self._record.bytes:,} bytes; free some, "
                what += "or set data.cache to a directory on another disk"
            raise OSError(error.errno, what, str(self._path.parent)) from None


@dataclass(frozen=True)
class Cache:
    """Files of at most `max_bytes` in a directory; those used least recently go first.

    Only files with names as ours are ever removed, and none that a process has mapped.
    """

    directory: Path
    max_bytes: int

    def find(self, record: FileRecord) -> IO[bytes] | None:
        """The file, open; None where it is not here. It stays as long as its descriptor, or that of
        a map of it, is open."""
        path = self._path(record)
        while True:
            try:
                file = path.open("rb", buffering=0)
            except FileNotFoundError:
                return None
            fcntl.flock(file, fcntl.LOCK_SH)
            status = os.fstat(file.fileno())
            if _is_at(path, status):  # it was not evicted in between
                break
            file.close()
        if status.st_size == record.bytes:
            with suppress(PermissionError):  # another user's: its age counts from its arrival
                os.utime(file.fileno())
            return file
        file.close()
        self.set_aside(record, status)
        return None

    def claim(self, record: FileRecord) -> Partial | None:
        """The partial to write the file to; None where it has come in between, or another process
        is fetching it. Raises InputError where it can never fit, CacheFull where it cannot now."""
        if record.bytes > self.max_bytes:
            raise InputError(
                f"data.cache_gib={self.max_bytes / 2**30:g} is less than the {record.bytes:,} bytes"
                f" of {record.path} alone: raise it to {record.bytes / 2**30:.3g} or more"
            )
        with self.locked():
            partial = self._path(record, PARTIAL)
            self._sweep()
            if partial.exists() or self._path(record).exists():
                return None
            excess = self._make_room(record.bytes)
            if excess > 0:
                raise CacheFull(
                    f"{self.directory}: no room for {record.path}, {record.bytes:,} bytes: all of "
                    f"data.cache_gib={self.max_bytes / 2**30:g} is in use; raise it by "
                    f"{excess / 2**30:.3g} or more"
                )
            return Partial(self, partial, record)

    def trim(self) -> None:
        """Remove what is beyond the bound, which may have been another one before."""
        with self.locked():
            self._sweep()
            self._make_room(0)

    def set_aside(self, record: FileRecord, bad: os.stat_result) -> None:
        """Put a damaged file out of the way, unless another process has done so already."""
        with self.locked():
            if _is_at(self._path(record), bad):
                self._path(record).rename(self._path(record, DAMAGED))

    def fetched_ns(self, record: FileRecord) -> int:
        """When the partial of a file was written to last; 0 where there is none."""
        try:
            return self._path(record, PARTIAL).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _path(self, record: FileRecord, suffix: str = "") -> Path:
        return self.directory / f"{record.sha256}.shard{suffix}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While names come and go."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _ours(self) -> list[Path]:
        return [path for path in self.directory.iterdir() if _OURS.fullmatch(path.name)]

    def _sweep(self) -> None:
        """Remove the partials of dead processes. Whoever makes one locks it within our lock."""
        for path in self._ours():
            if path.suffix == PARTIAL:
                _remove_unused(path)

    def _make_room(self, num_bytes: int) -> int:
        """Remove files until so many bytes would fit; returns how many are still too many."""
        found = {path: path.lstat() for path in self._ours()}
        excess = sum(status.st_size for status in found.values()) + num_bytes - self.max_bytes
        for path in sorted(found, key=lambda path: (path.suffix != DAMAGED, found[path].st_mtime)):
            if excess > 0 and path.suffix != PARTIAL:
                excess -= _remove_unused(path)
        return excess


def _is_at(path: Path, status: os.stat_result) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), status)
    return False


def _remove_unused(path: Path) -> int:
    """Remove a file that no process has locked; returns the bytes that this frees."""
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return os.fstat(file.fileno()).st_size
    return 0
