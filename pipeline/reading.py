"""From a row of the plan to the bytes of its file: on disk, inside a tar, or in a Parquet column.

A task reads what its rows name and no more: single members by their offset, and of Parquet files
the audio column of its own row groups, a few rows at a time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping
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
BLOCK_BYTES = 512  # of a tar header
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
PATH_REASONS = frozenset(REFUSED_ERRNOS.values())


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
        self._tar = _TarMembers(root, buffer)
        self._parquet = _ParquetValues(root, buffer)
        self._window_of: tuple[str, Found] | None = None  # what the buffer holds, if a file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._tar.close()
        self._parquet.close()

    def read(self, row: Mapping[str, Any], *, hashes: bool = True) -> Found:
        """Put the clip's file into the buffer; a huge file's beginning if `row` is a window of it.

        Raises ClipRefused where the path is at fault, and OSError where the disk is. Refusals
        name the path below the root only: a moved data set gives the same bytes.
        """
        held, self._window_of = self._window_of, None
        try:
            if row["row_group"] is not None:
                return self._found(row["path"], self._parquet.read(row), hashes)
            if row["offset"] is not None:
                return self._found(row["path"], self._tar.read(row), hashes)
            if row["member"] is not None:
                raise ClipRefused("missing", f"no file of {row['path']} holds it")
            if row["start_s"] is None:
                return self._found(row["path"], self._file(row["path"], is_whole=hashes), hashes)
            if held is None or held[0] != row["path"]:  # neighbours are windows of one file
                given = self._file(row["path"], is_whole=False)
                held = row["path"], self._found(row["path"], given, hashes)
            self._window_of = held
            return held[1]
        except OSError as error:
            reason = _reason(error)
            if reason is None:
                raise
            raise ClipRefused(reason, f"{row['path']}: {error.strerror or reason}") from None

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether something can be read where the clip should be."""
        try:
            self.read(row, hashes=False)
        except ClipRefused as refusal:
            return refusal.reason not in PATH_REASONS
        return True

    def _file(self, path: str, *, is_whole: bool) -> Given:
        with open_binary(self._root, path) as file:
            num_bytes = file.seek(0, os.SEEK_END)
            file.seek(0)
            if num_bytes < MAX_FILE_BYTES:
                return Given(_fill(file, self._buffer))
            if is_whole or is_remote(self._root):
                raise ClipRefused("too_large", f"{path}: over {MAX_FILE_BYTES // MIB} MiB")
            _fill(file, self._buffer[:HEAD_BYTES])
            return Given(HEAD_BYTES, join(self._root, path), num_bytes)

    def _found(self, path: str, given: Given, hashes: bool) -> Found:
        return Found(given, self._sha256(path, given) if hashes else "")

    def _sha256(self, path: str, given: Given) -> str:
        if given.path is None:
            return hashlib.sha256(self._buffer[: given.num_bytes]).hexdigest()
        with open_binary(self._root, path) as file:
            return _digest(file)


class _TarMembers:
    """Members of tar files, by their offset; the last file stays open."""

    def __init__(self, root: str, buffer: memoryview) -> None:
        self._root = root
        self._buffer = buffer
        self._path = ""
        self._file: IO[bytes] | None = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def read(self, row: Mapping[str, Any]) -> Given:
        name, num_bytes = row["member"], row["num_bytes"]
        if num_bytes >= MAX_FILE_BYTES:
            raise ClipRefused("too_large", f"{name}: over {MAX_FILE_BYTES // MIB} MiB")
        file = self._opened(row["path"])
        file.seek(row["offset"] - BLOCK_BYTES)
        if not _is_header_of(file.read(BLOCK_BYTES), name, num_bytes):
            raise _changed(row["path"], f"{name} is no longer at byte {row['offset']}")
        if _fill(file, self._buffer[:num_bytes]) < num_bytes:
            raise ClipRefused("truncated", f"{name}: the tar file ends inside it")
        return Given(num_bytes)

    def _opened(self, path: str) -> IO[bytes]:
        if self._file is None or self._path != path:
            self.close()
            self._path, self._file = path, open_binary(self._root, path)
        return self._file


def _is_header_of(header: bytes, name: str, num_bytes: int) -> bool:
    """Whether a block is a tar header of this member. Names that are long, or no ASCII, stand
    before it as a whole: then it holds the beginning, the end, or `?` for each odd letter."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    stored, wanted = (text.encode("ascii", "replace") for text in (info.name, name))
    is_name = bool(stored) and (wanted.endswith(stored) or wanted.startswith(stored))
    return is_name and info.size == num_bytes


class _ParquetValues:
    """Audio bytes in Parquet files, row after row; the last row group's place is kept."""

    def __init__(self, root: str, buffer: memoryview) -> None:
        self._root = root
        self._buffer = buffer
        self._group: tuple[str, int] | None = None
        self._file: IO[bytes] | None = None
        self._rows: Iterator[Value] = iter(())
        self._last = NO_VALUE

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._group = None, None

    def read(self, row: Mapping[str, Any]) -> Given:
        value = self._value(row["path"], row["row_group"], row["row"])
        if value.clip_id != row["member"]:
            raise _changed(row["path"], f"{value.clip_id} stands where {row['member']} was")
        if value.data is None:
            raise ClipRefused("missing", "no audio bytes in its row")
        if len(value.data) >= MAX_FILE_BYTES:
            raise ClipRefused("too_large", f"{len(value.data)} bytes")
        self._buffer[: len(value.data)] = value.data
        return Given(len(value.data))

    def _value(self, path: str, row_group: int, row: int) -> Value:
        """Rows are asked for in order, or again, as for two windows of one."""
        if self._group != (path, row_group) or row < self._last.row:
            self.close()
            self._file = open_binary(self._root, path)
            self._group, self._last = (path, row_group), NO_VALUE
            self._rows = _audio_column(self._file, row_group)
        if row != self._last.row:
            self._last = next((value for value in self._rows if value.row == row), NO_VALUE)
        return self._last


@dataclass(frozen=True)
class Value:
    """One row of a Parquet file's audio column."""

    row: int  # in its row group
    clip_id: str | None
    data: bytes | None


NO_VALUE = Value(-1, None, None)


def _audio_column(file: IO[bytes], row_group: int) -> Iterator[Value]:
    """The values of one row group, decoded a few rows at a time."""
    reader = pq.ParquetFile(file, pre_buffer=False, buffer_size=MIB)
    number = 0
    for batch in reader.iter_batches(
        batch_size=ROWS_AT_A_TIME, row_groups=[row_group], columns=[ID_COLUMN, AUDIO_COLUMN]
    ):
        ids = batch.column(ID_COLUMN)
        values = pc.struct_field(batch.column(AUDIO_COLUMN.partition(".")[0]), "bytes")
        for clip_id, value in zip(ids, values, strict=True):
            yield Value(number, clip_id.as_py(), value.as_py())
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
