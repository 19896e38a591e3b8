"""Tar shards in the WebDataset convention whose bytes depend on nothing but their members.

USTAR with mtime 0, uid and gid 0 and mode 0644. webdataset's own writer stamps the current time,
and a fractional one at that, which costs a PAX header of 1 KiB a member.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

BLOCK_BYTES = 512


@dataclass(frozen=True)
class Member:
    """Where one member's content lies in a tar file."""

    name: str
    offset: int
    bytes: int


class TarWriter:
    """Writes members one after another, in one pass, without keeping them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        with self._file as file:
            if kind is None:
                file.write(b"\0" * (2 * BLOCK_BYTES))
                file.write(b"\0" * (-file.tell() % tarfile.RECORDSIZE))

    def add(self, name: str, content: bytes) -> Member:
        """Append one regular file; returns where its content begins."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._file.write(info.tobuf(tarfile.USTAR_FORMAT))
        member = Member(name, self._file.tell(), len(content))
        self._file.write(content)
        self._file.write(b"\0" * (-len(content) % BLOCK_BYTES))
        return member
