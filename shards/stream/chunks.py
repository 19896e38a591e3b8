"""The inner chunks of sealed frame arrays, one at a time, each checked by its CRC-32C.

Zarr's own reader takes three times as long a chunk, reads a missing object as zeros, and its
errors say of no chunk whose it is. What is read here is the layout that `shards.frames` writes
and no other: Zarr's `sharding_indexed` codec with its index at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import IO, Any

import google_crc32c
import numcodecs.blosc
import numpy as np
import numpy.typing as npt

from configs.errors import IntegrityError
from shards.commit import CommitRecord, FileRecord
from shards.frames import CHUNK_ROWS, FramesTM
from shards.layout import Layout
from shards.ragged import Indices, starts_of
from shards.seal import check_bytes
from shards.stream.files import Files
from shards.stream.kept import Kept

CRC_BYTES = 4
NOTHING = 2**64 - 1  # offset and size of a chunk that holds nothing but the fill value
CODECS = ["bytes", "blosc", "crc32c"]

Places = npt.NDArray[np.uint64]  # [chunks of a shard, 2]: offset and bytes


class FrameChunks:
    """Chunks of `CHUNK_ROWS` frames, counted over all shards in order; `first_chunk` says where a
    shard's begin, [shards + 1].

    Raises IntegrityError with the shard's object, and the chunk in it, where one is not as it was
    written.
    """

    def __init__(self, layout: Layout, records: Sequence[CommitRecord], files: Files) -> None:
        frames = [record.counts["frames"] for record in records]
        self._frames: Indices = np.array(frames, dtype=np.int64)
        self.num_frames = int(self._frames.sum())
        self._objects = [_object_of(record) for record in records]
        self._files = files
        self._places = Kept(self._read_places)
        self.first_chunk = starts_of(-(-self._frames // CHUNK_ROWS))
        self.num_mels = num_mels_of(layout, records[0]) if records else 0

    @property
    def chunk_bytes(self) -> int:
        """Of a whole chunk in memory."""
        return CHUNK_ROWS * self.num_mels * np.dtype(np.float16).itemsize

    def read(self, chunk: int) -> FramesTM:
        """The frames of a chunk, [T, M] float16 dB; T is CHUNK_ROWS but for a shard's last."""
        shard = int(np.searchsorted(self.first_chunk, chunk, side="right")) - 1
        number = chunk - int(self.first_chunk[shard])
        num_rows = min(CHUNK_ROWS, int(self._frames[shard]) - number * CHUNK_ROWS)
        offset, num_bytes = self._places[shard][number].tolist()
        if num_bytes == NOTHING:
            return np.zeros((num_rows, self.num_mels), dtype=np.float16)
        with self._open(shard) as file:
            raw = os.pread(file.fileno(), num_bytes, offset)
        frames_TM = self._decoded(raw)
        if frames_TM is None:
            raise self._damage(shard, f"chunk {number}")
        return frames_TM[:num_rows] if num_rows == CHUNK_ROWS else frames_TM[:num_rows].copy()

    def _decoded(self, raw: bytes) -> FramesTM | None:
        """A chunk of CHUNK_ROWS rows; None for bytes that are none."""
        if (checked := _checked(raw)) is None:
            return None
        try:
            values = np.frombuffer(numcodecs.blosc.decompress(checked), dtype="<f2")
            return values.reshape(CHUNK_ROWS, self.num_mels)
        except (RuntimeError, ValueError):
            return None

    def _read_places(self, shard: int) -> Places:
        """Where the chunks of a shard lie in its object."""
        num_chunks = int(self.first_chunk[shard + 1] - self.first_chunk[shard])
        object_ = self._objects[shard]
        if object_ is None:  # zarr writes none where all is the fill value
            return np.full((num_chunks, 2), NOTHING, dtype=np.uint64)
        num_bytes = num_chunks * 2 * 8 + CRC_BYTES
        with self._open(shard) as file:
            raw = os.pread(file.fileno(), num_bytes, max(0, object_.bytes - num_bytes))
        if len(raw) != num_bytes or (checked := _checked(raw)) is None:
            raise self._damage(shard, "the index of its chunks")
        return np.frombuffer(checked, dtype="<u8").reshape(num_chunks, 2)

    def _open(self, shard: int) -> IO[bytes]:
        object_ = self._objects[shard]
        assert object_ is not None, "what has no object has no places"
        return self._files.open(object_)

    def _damage(self, shard: int, what: str) -> IntegrityError:
        object_ = self._objects[shard]
        name = "" if object_ is None else object_.path
        return IntegrityError(f"{name}: {what} is damaged; {self._files.cure}")


def num_mels_of(layout: Layout, record: CommitRecord) -> int:
    """The bands of a shard's frames. Raises IntegrityError where its metadata are not those on
    record, or describe another layout than the one that is read here."""
    file = next(file for file in record.files if file.path.endswith("/zarr.json"))
    check_bytes(layout.root, file)
    tree: dict[str, Any] = json.loads((layout.root / file.path).read_bytes())
    (sharding,) = tree["codecs"]
    inside = sharding["configuration"]
    num_mels = int(tree["shape"][1])
    found = inside["chunk_shape"], [codec["name"] for codec in inside["codecs"]]
    if found != ([CHUNK_ROWS, num_mels], CODECS):
        raise IntegrityError(f"{file.path}: chunks as {found} are none that this version reads")
    return num_mels


def _object_of(record: CommitRecord) -> FileRecord | None:
    return next((file for file in record.files if file.path.endswith("/c/0/0")), None)


def _checked(raw: bytes) -> bytes | None:
    """Bytes without the CRC-32C that stands behind them; None where it is not theirs."""
    content, crc32c = raw[:-CRC_BYTES], raw[-CRC_BYTES:]
    return content if google_crc32c.value(content) == int.from_bytes(crc32c, "little") else None
