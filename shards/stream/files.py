"""Shards as memory: mapped when they are first asked for."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from configs.errors import CacheFull, IntegrityError
from shards.commit import REPAIR, FileRecord
from shards.seal import check_size

Bytes = npt.NDArray[np.uint8]
OTHER_FILES = 8192  # that a process may have open beside the shards
ROOM_LIMIT_S, ROOM_POLL_S = 60.0, 0.05  # waiting for others to let go of what they read


class Files(Protocol):
    """Where the shards of a set are."""

    cure: str  # what to do about a damaged one

    def open(self, file: FileRecord) -> IO[bytes]:
        """A local file in its full size. Raises IntegrityError with its name, CacheFull where it
        would have to be fetched and there is no room, and what the store's own faults are."""
        ...

    def replace(self, file: FileRecord, bad: os.stat_result) -> None:
        """Let `open` give another copy than the damaged one of status `bad`, if there is any."""
        ...

    def may_all_stay(self, files: Sequence[FileRecord], /) -> bool:
        """Whether there is room for all of them at the same time."""
        ...


class LocalFiles:
    """The files of a run on this machine's disks.

    Args:
        root: of the run.
        is_all: whether they can be nowhere else; where not, an error says how to tell where.
    """

    cure = REPAIR

    def __init__(self, root: Path, *, is_all: bool = True) -> None:
        self._root, self._is_all = root, is_all

    def open(self, file: FileRecord) -> IO[bytes]:
        path = self._root / file.path
        try:
            check_size(self._root, file)
        except IntegrityError:
            if self._is_all or path.exists():
                raise
            raise IntegrityError(
                f"{path} is not there: where it lies elsewhere, data.remote=URL says where; else "
                f"{REPAIR}"
            ) from None
        return path.open("rb")

    def replace(self, file: FileRecord, bad: os.stat_result) -> None:
        """There is no other copy."""

    def may_all_stay(self, _: Sequence[FileRecord]) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class Mapped:
    """A shard in memory.

    It may be forgotten at any time: an array keeps the map that it looks into, the map its
    descriptor, and the descriptor the lock by which a cached file is not evicted.
    """

    data: Bytes
    status: os.stat_result

    @classmethod
    def of(cls, file: IO[bytes]) -> Self:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return cls(np.frombuffer(mapped, dtype=np.uint8), os.fstat(file.fileno()))


class Maps:
    """Shards mapped into memory when they are first asked for, and kept; where there is not room
    for all of them, only while they are read, so that no process stands in another's way."""

    def __init__(self, files: Files, records: Sequence[FileRecord]) -> None:
        self.files, self._records = files, records
        self._in_use: WeakValueDictionary[int, Mapped] = WeakValueDictionary()
        self._kept: OrderedDict[int, Mapped] = OrderedDict()  # the one used last stands last
        self._keeps_all = files.may_all_stay(records)
        self._lock = threading.Lock()
        _allow_open_files(len(records) + OTHER_FILES)

    def __getitem__(self, shard: int) -> Mapped:
        mapped = self._in_use.get(shard) or self._map(shard)
        with self._lock:
            mapped = self._in_use.setdefault(shard, mapped)
            if self._keeps_all:
                self._kept[shard] = mapped
                self._kept.move_to_end(shard)
        return mapped

    def path(self, shard: int) -> Path:
        """The shard's file in its full size; raises as `Files.open` does."""
        with self.files.open(self._records[shard]) as file:
            return Path(file.name)

    def name(self, shard: int) -> str:
        return self._records[shard].path

    @property
    def cure(self) -> str:
        return self.files.cure

    def replace(self, shard: int, bad: os.stat_result) -> None:
        """Map the shard from another copy than the damaged one, if there is any, from now on."""
        with self._lock:
            for maps in (self._in_use, self._kept):
                if (mapped := maps.get(shard)) and os.path.samestat(mapped.status, bad):
                    del maps[shard]
                del mapped
        self.files.replace(self._records[shard], bad)

    def _map(self, shard: int) -> Mapped:
        deadline_s = time.monotonic() + ROOM_LIMIT_S
        while True:
            try:
                with self.files.open(self._records[shard]) as file:
                    return Mapped.of(file)
            except CacheFull:
                if self._forget_oldest():
                    continue
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(ROOM_POLL_S)

    def _forget_oldest(self) -> bool:
        """Unmap the shard that was used least recently, unless somebody holds arrays of it."""
        with self._lock:
            return bool(self._kept) and self._kept.popitem(last=False) is not None


def untouched(size: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """An array of zeros that takes memory only where it is written, 4 KiB at a time: numpy's own
    asks for pages of 2 MiB, and to clear those costs more than what a first batch writes."""
    num_bytes = size * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, max(1, num_bytes), flags=mmap.MAP_PRIVATE)
    with contextlib.suppress(AttributeError, OSError):  # not on every system, nor in every kernel
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, count=size)


def _allow_open_files(count: int) -> None:
    """A map keeps its file open, and the usual limit is 1,024: below AudioSet's 1,994 shards. So
    does torch with every tensor that comes from a loader worker."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
