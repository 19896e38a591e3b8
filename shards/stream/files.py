"""Shards as memory: mapped, and their blocks checked at the first touch."""

from __future__ import annotations

import contextlib
import mmap
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shards.commit import FileRecord
from shards.seal import check_size

Bytes = npt.NDArray[np.uint8]
OTHER_FILES = 256  # that a process may have open beside the shards


class Files(Protocol):
    """Where the shards of a set are."""

    def path(self, file: FileRecord) -> Path:
        """A local file in its full size; raises IntegrityError or IOError with its name."""
        ...


class LocalFiles:
    """The files of a run on this machine's disks."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, file: FileRecord) -> Path:
        check_size(self._root, file)
        return self._root / file.path


class Maps:
    """Shards mapped into memory when they are first asked for, and kept."""

    def __init__(self, files: Files, records: Sequence[FileRecord]) -> None:
        self._files, self._records = files, records
        self._maps: dict[int, Bytes] = {}
        _allow_open_files(len(records) + OTHER_FILES)

    def __getitem__(self, shard: int) -> Bytes:
        if shard not in self._maps:
            with self._files.path(self._records[shard]).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[shard] = np.frombuffer(mapped, dtype=np.uint8)
        return self._maps[shard]

    def name(self, shard: int) -> str:
        return self._records[shard].path


def _allow_open_files(count: int) -> None:
    """A map keeps its file open, and the usual limit is 1,024: below AudioSet's 1,994 shards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
