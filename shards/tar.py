"""Tar shards in the WebDataset convention whose bytes depend on nothing but their members.

USTAR with mtime 0, uid and gid 0 and mode 0644. webdataset's own writer stamps the current time,
and a fractional one at that, which costs a PAX header of 1 KiB a member.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

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


def members(file: IO[bytes]) -> Iterator[Member]:
    """The members of a tar that a TarWriter made, in order, from their headers alone, in a third of
    the time that tarfile takes.

    Raises ValueError at a header that is not as it was written, or where the file ends before its
    end is marked.
    """
    position, file_no = 0, file.fileno()
    while any(header := os.pread(file_no, BLOCK_BYTES, position)):
        name, num_bytes = _parsed(header)
        position += BLOCK_BYTES
        yield Member(name, position, num_bytes)
        position += num_bytes + -num_bytes % BLOCK_BYTES
    if len(header) < BLOCK_BYTES:
        raise ValueError("no end of archive")


def _parsed(header: bytes) -> tuple[str, int]:
    """The name of a member, and its bytes: POSIX.1-1988, "ustar". The checksum is the sum of all
    bytes, its own counted as blanks."""
    blank = header[:148] + b" " * 8 + header[156:]
    if len(header) < BLOCK_BYTES or sum(blank) != int(header[148:154], 8):
        raise ValueError("not the checksum of its header")
    return header[:100].rstrip(b"\0").decode(), int(header[124:135], 8)
