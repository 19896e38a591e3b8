"""The log-mel frames of decoded clips, many rows at a time, through a bounded cache of chunks.

Legend: N rows asked for, B clips of a batch, T frames of its longest, S frames of all, M mels.

A clip is about a twentieth of what Zarr has compressed together, so what decides the speed is how
often a chunk is decompressed: rows are read chunk by chunk, and chunks are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.commit import CommitRecord
from shards.frames import CHUNK_ROWS, FramesTM
from shards.index import open_shards
from shards.layout import Layout
from shards.ragged import Indices, ragged, runs, starts_of
from shards.stream.batches import ClipBatch, ClipRows
from shards.stream.chunks import FrameChunks
from shards.stream.clips import Clips, ClipSource, without_detail
from shards.stream.files import LocalFiles
from shards.stream.kept import Kept
from shards.stream.schedule import Piece

CACHE_BYTES = 512 << 20
READ_BYTES, MOST_ROWS = 16 << 20, 8192  # of one read, about
ITEM_BYTES = np.dtype(np.float16).itemsize
UNIT_CHUNKS = 4  # the clip that lies across the end of a unit needs a chunk of the next one, too


@dataclass(frozen=True)
class FrameChunk(ClipRows):
    """Some clips with their frames, in the order in which they were asked for."""

    frames_SM: FramesTM  # dB, one clip after another
    starts: Indices  # [N + 1]

    def clips(self) -> list[FramesTM]:
        """The frames of every clip by itself, [T, M] each."""
        return np.split(self.frames_SM, self.starts[1:-1]) if len(self.rows_N) else []

    def clips_of(self, piece: Piece) -> list[FramesTM]:
        """Those of a piece."""
        starts = self.starts[piece.start : piece.stop + 1].tolist()
        return [self.frames_SM[start:stop] for start, stop in pairwise(starts)]


@dataclass(frozen=True)
class FrameBatch(ClipBatch):
    """Some clips, padded to the longest of them; `lengths_B` are in frames."""

    frames_BTM: npt.NDArray[np.floating[Any]]  # dB


def frame_batch(
    chunk: FrameChunk,
    piece: Piece,
    *,
    pad_value: float,
    width: int | None = None,
    dtype: type[np.float16] | type[np.float32] = np.float32,
) -> FrameBatch:
    """A piece of a chunk; `width` pads to so many frames, if the longest clip has fewer."""
    lengths_B, starts = chunk.lengths_N[piece.rows], chunk.starts[piece.start : piece.stop + 1]
    longest = max(int(lengths_B.max(initial=0)), width or 0)
    frames_BTM = np.empty((len(lengths_B), longest, chunk.frames_SM.shape[1]), dtype=dtype)
    for clip_TM, start, length in zip(
        frames_BTM, starts.tolist(), lengths_B.tolist(), strict=False
    ):
        clip_TM[:length] = chunk.frames_SM[start : start + length]
        clip_TM[length:] = pad_value
    return FrameBatch(**chunk.of_batch(piece), frames_BTM=frames_BTM)


class FrameSource(ClipSource):
    """Random access to the frames of a sealed `shard` stage; rows count over its decoded clips, as
    in a token set.

    Args:
        layout: of the run.
        records: of its shards, in the order of the seal.
        fingerprint: of the seal.
        cache_bytes: of decompressed chunks that are kept at most.
        unit_chunks: chunks of a shard that make a unit of storage, for orders by windows.

    Raises IntegrityError with the shard and the chunk where one is damaged or missing.
    """

    def __init__(
        self,
        layout: Layout,
        records: Sequence[CommitRecord],
        fingerprint: str,
        cache_bytes: int = CACHE_BYTES,
        unit_chunks: int = UNIT_CHUNKS,
    ) -> None:
        records = without_detail(records)
        args = layout, records, fingerprint, cache_bytes, unit_chunks
        super().__init__(Clips(layout, records), fingerprint, args)
        self._unit_chunks = unit_chunks
        self._stored = FrameChunks(layout, records, LocalFiles(layout.root))
        self.chunks = Kept(self._stored.read, cache_bytes)
        self.num_mels = self._stored.num_mels
        num_bytes = self._stored.num_frames * self.num_mels * ITEM_BYTES
        mean_bytes = max(1, num_bytes // max(1, self.num_rows))
        self.rows_at_once = min(MOST_ROWS, max(1, READ_BYTES // mean_bytes))

    @cached_property
    def unit_sizes(self) -> Indices:
        """The clips that begin in each unit of `unit_chunks` chunks. Reads the whole index."""
        first_chunk = self._stored.first_chunk
        sizes = [
            np.bincount(
                self._clips.parts[shard].starts // (CHUNK_ROWS * self._unit_chunks),
                minlength=-(-num_chunks // self._unit_chunks),
            )
            for shard, num_chunks in enumerate(np.diff(first_chunk).tolist())
        ]
        return np.concatenate([np.zeros(0, dtype=np.int64), *sizes])

    @property
    def window_units(self) -> int:
        """The most units a window may have for the cache to hold two windows, the one that ends
        and the one that begins; each unit with the chunk that its last clip goes on in."""
        unit_bytes = (self._unit_chunks + 1) * self._stored.chunk_bytes
        return max(1, (self.chunks.max_bytes or 0) // max(1, 2 * unit_bytes))

    def read(self, rows: Indices) -> FrameChunk:
        """Many rows at once, each chunk that they lie in touched once."""
        clips = self._clips.of(rows)
        first_chunk = self._stored.first_chunk[self._clips.shards(rows)]
        stretches = stretches_of(
            first_chunk * CHUNK_ROWS + self._clips.starts(rows), clips.lengths_N
        )
        starts = starts_of(clips.lengths_N)
        frames_SM = np.empty((int(starts[-1]), self.num_mels), dtype=np.float16)
        for chunk, here in runs(stretches[:, 0]):
            chunk_TM = self.chunks[chunk]
            for _, source, target, size in stretches[here].tolist():
                frames_SM[target : target + size] = chunk_TM[source : source + size]
        return FrameChunk(**vars(clips), frames_SM=frames_SM, starts=starts)


def stretches_of(begins_N: Indices, lengths_N: npt.NDArray[np.int32]) -> Indices:
    """Which frames of which chunks make up clips, sorted by chunk: [stretches, 4].

    A clip has `lengths_N` frames from `begins_N` on, where every chunk counts as CHUNK_ROWS. The
    columns are the chunk, the first frame in it, the first in the row of all clips, and how many.
    """
    ends_N = begins_N + lengths_N
    first_N = begins_N // CHUNK_ROWS
    counts_N = -(-ends_N // CHUNK_ROWS) - first_N
    clips, chunks = np.repeat(np.arange(len(begins_N)), counts_N), ragged(first_N, counts_N)
    starts = np.maximum(begins_N[clips], chunks * CHUNK_ROWS)
    sizes = np.minimum(ends_N[clips], (chunks + 1) * CHUNK_ROWS) - starts
    targets = starts_of(lengths_N)[clips] + starts - begins_N[clips]
    stretches = np.stack([chunks, starts - chunks * CHUNK_ROWS, targets, sizes], axis=1)
    return stretches[np.argsort(chunks, kind="stable")]


def open_frames(layout: Layout) -> FrameSource:
    """The frames of a run; raises NotMadeYet before `shard` has finished."""
    seal = open_shards(layout)
    return FrameSource(layout, seal.records, seal.fingerprint)
