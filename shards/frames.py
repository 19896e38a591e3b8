"""The frame store: a Zarr 3 group with one array of log-mel frames a shard.

Each array is float16 dB [rows, mels] in inner chunks of 8,192 rows inside one shard object
(zarr's sharding codec), blosc-zstd with bit shuffle, crc32c on every chunk. Zarr never writes to
the final place: arrays are encoded in memory, and the objects are published like any other file.
Chunks of one clip each would be 5 times slower to write and 8 times to sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec
from zarr.storage import MemoryStore

from configs.errors import IntegrityError
from shards.commit import REPAIR, CommitRecord, FileRecord, publish_bytes
from shards.layout import Layout
from shards.seal import check_bytes

CHUNK_ROWS = 8192
ZSTD_LEVEL = 3

FramesTM = npt.NDArray[np.float16]  # T frames, M mel bands, dB

numcodecs.blosc.use_threads = False  # one task, one core; and no thread may decide bytes


def encode_frames(frames_TM: FramesTM) -> dict[str, bytes]:
    """The objects of one array, by their names inside it (`zarr.json`, `c/0/0`)."""
    num_rows, num_mels = frames_TM.shape
    store = MemoryStore()
    shard_rows = max(1, -(-num_rows // CHUNK_ROWS)) * CHUNK_ROWS
    array = zarr.create_array(
        store=store,
        shape=(num_rows, num_mels),
        chunks=(CHUNK_ROWS, num_mels),
        shards=(shard_rows, num_mels),
        dtype="float16",
        fill_value=0.0,
        compressors=[
            BloscCodec(cname="zstd", clevel=ZSTD_LEVEL, shuffle=BloscShuffle.bitshuffle),
            Crc32cCodec(),
        ],
    )
    if num_rows:
        array[:] = frames_TM
    return {name: buffer.to_bytes() for name, buffer in sorted(store._store_dict.items())}


def write_group(layout: Layout, attributes: Mapping[str, Any]) -> FileRecord:
    """Write the group that holds the arrays; `attributes` say how the frames were made."""
    store = MemoryStore()
    zarr.create_group(store=store, attributes=dict(attributes))
    data = store._store_dict["zarr.json"].to_bytes()
    return publish_bytes(layout.partial, layout.root, layout.frames / "zarr.json", data)


def read_shard_frames(layout: Layout, record: CommitRecord) -> FramesTM:
    """All frames of one committed shard, [rows, mels] float16 dB.

    Raises IntegrityError where an object is missing or damaged: zarr itself would read a missing
    object as zeros.
    """
    files = [file for file in record.files if file.path.startswith("frames.zarr/")]
    for file in files:  # a chunk's own checksum does not say whose chunk it is
        check_bytes(layout.root, file)
    metadata = next(file for file in files if file.path.endswith("zarr.json"))
    return read_array((layout.root / metadata.path).parent)


def read_array(directory: Path) -> FramesTM:
    """One array of the store, whole; raises IntegrityError where a chunk fails its checksum."""
    try:
        array = zarr.open_array(store=directory, mode="r")
        return np.asarray(array[:], dtype=np.float16)
    except (ValueError, RuntimeError) as error:
        raise IntegrityError(f"{directory}: {error}; {REPAIR}") from None
