"""From a row of the plan to the bytes of its file: on disk, inside a tar, or in a Parquet column.

A task reads what its rows name and no more: single members by their offset, and of Parquet files
the audio column of its own row groups, a few rows at a time.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import InputError
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sandbox import HEAD_BYTES, MAX_FILE_BYTES, MIB, Given
from pipeline.storage import is_remote, join, open_binary

ID_COLUMN, AUDIO_COLUMN = "video_id", "audio.bytes"  # the data set of the Hub
BLOCK_BYTES, NAME_BYTES = 512, 100  # of a tar header
ROWS_AT_A_TIME = 8  # of a Parquet column: about 12 MiB of AudioSet's FLAC
# What a path itself can be to blame for; any other error, as EIO, fails the task.
REFUSED_ERRNOS = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EISDIR: "not_a_file",
    errno.EACCES: "no_permission",
    errno.EPERM: "no_permission",
    errno.ENAMETOOLONG: "missing",
    errno.EINVAL: "missing",  # a name that the file system cannot hold
    errno.ELOOP: "missing",
    errno.ENXIO: "not_a_file",
}


@dataclass(frozen=True)
class Found:
    """A clip's file in the buffer, and the sha256 of all its bytes (empty where not asked)."""

    given: Given
    sha256: str


class ClipReader:
    """Reads the files of one task's clips, in plan order, into a buffer; a context manager."""

    def __init__(self, root: str, buffer: memoryview) -> None:
        self._root = root
        self._buffer = buffer
        self._open = ExitStack()
        self._tar: tuple[str, IO[bytes]] | None = None
        self._column: tuple[tuple[str, int], Iterator[tuple[int, str, bytes | None]]] | None = None
        self._hashed: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._open.close()

    def read(self, row: Mapping[str, Any], *, hashes: bool = True) -> Found:
        """Put the clip's file into the buffer; a huge file's beginning if `row` is a window of it.

        Raises ClipRefused where the path is at fault, and OSError where the disk is. Refusals
        name the path below the root only: a moved data set gives the same bytes.
        """
        try:
            if row["row_group"] is not None:
                given = self._parquet_value(row)
            elif row["offset"] is not None:
                given = self._tar_member(row)
            elif row["member"] is not None:
                raise ClipRefused("missing", f"no file of {row['path']} holds it")
            else:
                given = self._file(row["path"], is_whole=row["start_s"] is None and hashes)
            return Found(given, self._sha256(row["path"], given) if hashes else "")
        except OSError as error:
            reason = _reason(error)
            if reason is None:
                raise
            raise ClipRefused(reason, f"{row['path']}: {error.strerror or reason}") from None

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether anything stands where the clip should be."""
        try:
            self.read(row, hashes=False)
        except ClipRefused as refusal:
            return refusal.reason != "missing"
        return True

    def _file(self, path: str, *, is_whole: bool) -> Given:
        with open_binary(self._root, path) as file:
            num_bytes = _fill(file, self._buffer)
            if num_bytes < MAX_FILE_BYTES:
                return Given(num_bytes)
            if is_whole or is_remote(self._root):
                raise ClipRefused("too_large", f"{path}: over {MAX_FILE_BYTES // MIB} MiB")
            return Given(HEAD_BYTES, join(self._root, path), file.seek(0, os.SEEK_END))

    def _tar_member(self, row: Mapping[str, Any]) -> Given:
        path, name, num_bytes = row["path"], row["member"], row["num_bytes"]
        if num_bytes >= MAX_FILE_BYTES:
            raise ClipRefused("too_large", f"{name}: over {MAX_FILE_BYTES // MIB} MiB")
        if self._tar is None or self._tar[0] != path:
            self._open.close()
            self._tar = path, self._open.enter_context(open_binary(self._root, path))
        file = self._tar[1]
        file.seek(row["offset"] - BLOCK_BYTES)
        header = file.read(BLOCK_BYTES)
        stored = header[:NAME_BYTES].rstrip(b"\0")
        if not name.encode().endswith(stored) and not name.encode().startswith(stored):
            raise _changed(path, f"{name} is no longer at byte {row['offset']}")
        if _fill(file, self._buffer[:num_bytes]) < num_bytes:
            raise ClipRefused("truncated", f"{name}: the tar file ends inside it")
        return Given(num_bytes)

    def _parquet_value(self, row: Mapping[str, Any]) -> Given:
        where = row["path"], row["row_group"]
        if self._column is None or self._column[0] != where:
            self._open.close()
            file = self._open.enter_context(open_binary(self._root, row["path"]))
            self._column = where, _audio_column(file, row["row_group"])
        wanted = (entry for entry in self._column[1] if entry[0] == row["row"])
        _, clip_id, value = next(wanted, (0, None, None))
        if clip_id != row["member"]:
            raise _changed(row["path"], f"{clip_id} stands where {row['member']} was")
        if value is None:
            raise ClipRefused("missing", "no audio bytes in its row")
        if len(value) >= MAX_FILE_BYTES:
            raise ClipRefused("too_large", f"{len(value)} bytes")
        self._buffer[: len(value)] = value
        return Given(len(value))

    def _sha256(self, path: str, given: Given) -> str:
        if given.path is None:
            return hashlib.sha256(self._buffer[: given.num_bytes]).hexdigest()
        if self._hashed is None or self._hashed[0] != path:  # neighbours are of one file
            with open_binary(self._root, path) as file:
                self._hashed = path, _digest(file)
        return self._hashed[1]


def _audio_column(file: IO[bytes], row_group: int) -> Iterator[tuple[int, str, bytes | None]]:
    """(row in the group, id, audio bytes) of one row group, decoded a few rows at a time."""
    reader = pq.ParquetFile(file, pre_buffer=False, buffer_size=MIB)
    number = 0
    for batch in reader.iter_batches(
        batch_size=ROWS_AT_A_TIME, row_groups=[row_group], columns=[ID_COLUMN, AUDIO_COLUMN]
    ):
        ids = batch.column(ID_COLUMN)
        values = pc.struct_field(batch.column(AUDIO_COLUMN.partition(".")[0]), "bytes")
        for clip_id, value in zip(ids, values, strict=True):
            yield number, clip_id.as_py(), value.as_py()
            number += 1


def _changed(path: str, what: str) -> InputError:
    return InputError(f"{path} changed since the plan was frozen: {what}; put the old one back")


def _fill(file: IO[bytes], buffer: memoryview) -> int:
    """Read until the buffer is full or the file ends; returns the number of bytes."""
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer[filled:])  # type: ignore[attr-defined]  # of raw files
        if not count:
            break
        filled += count
    return filled


def _digest(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it has readinto


def _reason(error: OSError) -> str | None:
    if error.errno is None and isinstance(error, FileNotFoundError):  # as fsspec raises it
        return "missing"
    return REFUSED_ERRNOS.get(error.errno or 0)
