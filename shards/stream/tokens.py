"""The clips of a sealed token set, many rows at a time, straight from memory-mapped tars.

Legend: N rows asked for, B clips of a batch, T tokens of its longest, Q codebooks, C classes.

Rows are gathered column by column, in the order in which they are stored; a loop over clips would
cost more than everything else together. Blocks are checked when first touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from configs.errors import IntegrityError
from shards.commit import REPAIR
from shards.layout import Layout
from shards.seal import open_seal
from shards.stream.files import Files, LocalFiles, Maps
from shards.stream.keyed import Indices
from shards.stream.schedule import Piece
from shards.tokens import STAGE, TokenIndex, read_token_index

Tokens = npt.NDArray[np.uint16]
Keys = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class TokenChunk:
    """Some rows of a token set, in the order in which they were asked for.

    `window_NWQ` holds them in the order in which they are stored, each with what happens to
    follow it up to the longest; `place_N` says where each row's is.
    """

    rows_N: Indices
    keys_N: Keys
    lengths_N: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int16]  # of all rows, flat
    label_starts: Indices  # [N + 1]
    window_NWQ: Tokens
    place_N: Indices

    @cached_property
    def is_even(self) -> bool:
        """Whether all rows are of one length."""
        return bool((self.lengths_N == self.window_NWQ.shape[1]).all())

    def flat(self) -> Tokens:
        """The tokens of all rows, one after another: [sum of lengths, Q]."""
        is_own = np.arange(self.window_NWQ.shape[1]) < self.lengths_N[:, None]
        flat_SQ: Tokens = self.window_NWQ[self.place_N][is_own]
        return flat_SQ

    def clips(self) -> list[Tokens]:
        """The tokens of every row by itself, [T, Q] each."""
        return np.split(self.flat(), np.cumsum(self.lengths_N)[:-1]) if len(self.rows_N) else []


@dataclass(frozen=True)
class TokenBatch:
    """Some clips, padded to the longest of them. Those of weight 0 only fill the batch up."""

    rows_B: Indices
    keys_B: Keys
    tokens_BTQ: npt.NDArray[np.int64]
    lengths_B: npt.NDArray[np.int32]
    weights_B: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int16]  # of all clips, flat
    label_starts: Indices  # [B + 1]

    @property
    def keys(self) -> list[str]:
        """The tar keys of the clips."""
        return decoded(self.keys_B)

    def targets(self, num_classes: int) -> npt.NDArray[np.float32]:
        """Multi-hot labels, [B, C]."""
        return multi_hot(self.labels, self.label_starts, num_classes)


def multi_hot(
    labels: npt.NDArray[np.int16], starts: Indices, num_classes: int
) -> npt.NDArray[np.float32]:
    """From flat label ids, and where each clip's begin [N + 1], to 0 and 1 [N, C]."""
    num_labels_N = starts[1:] - starts[:-1]
    targets_NC = np.zeros((len(num_labels_N), num_classes), dtype=np.float32)
    targets_NC[np.arange(len(num_labels_N)).repeat(num_labels_N), labels] = 1.0
    return targets_NC


def token_batch(
    chunk: TokenChunk, piece: Piece, *, pad_id: int, width: int | None = None
) -> TokenBatch:
    """A piece of a chunk; `width` pads to so many tokens, whatever the longest clip has."""
    rows, lengths_B = piece.rows, chunk.lengths_N[piece.rows]
    tokens_BTQ = np.take(chunk.window_NWQ, chunk.place_N[rows], axis=0).astype(np.int64)
    if not chunk.is_even:
        longest = int(lengths_B.max(initial=0))
        tokens_BTQ = tokens_BTQ[:, :longest]
        tokens_BTQ[np.arange(longest) >= lengths_B[:, None]] = pad_id
    if width is not None and width > tokens_BTQ.shape[1]:
        beyond = ((0, 0), (0, width - tokens_BTQ.shape[1]), (0, 0))
        tokens_BTQ = np.pad(tokens_BTQ, beyond, constant_values=pad_id)
    starts = chunk.label_starts[piece.start : piece.stop + 1]
    return TokenBatch(
        rows_B=chunk.rows_N[rows],
        keys_B=chunk.keys_N[rows],
        tokens_BTQ=tokens_BTQ,
        lengths_B=lengths_B,
        weights_B=piece.weights,
        labels=chunk.labels[starts[0] : starts[-1]],
        label_starts=starts - starts[0],
    )


class TokenSource:
    """Random access to a sealed token set; rows count over all shards in order.

    Raises IntegrityError with the shard, the block and the column where a checksum fails.
    """

    def __init__(self, index: TokenIndex, files: Files, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.num_rows = index.num_rows
        self.unit_sizes: Indices = np.diff(index.first_row)
        self._index = index
        self._maps = Maps(files, index.files)
        self._is_open = np.zeros(index.num_blocks, dtype=bool)
        self._windows: dict[tuple[int, int], Tokens] = {}
        self._keys: dict[int, Keys] = {}
        # Filled in block by block; the pages of what was never touched cost no memory.
        self._lengths = np.empty(index.num_rows, dtype=np.int32)
        self._starts = np.empty(index.num_rows, dtype=np.int64)  # of tokens, in 2 bytes of the tar
        self._label_starts = np.empty(index.num_rows, dtype=np.int64)
        self._label_counts = np.empty(index.num_rows, dtype=np.uint16)
        self._labels = np.empty(self._first_label[-1], dtype=np.int16)

    @cached_property
    def _first_label(self) -> Indices:
        """Of each block, over the whole set: [blocks + 1]."""
        if not self._index.num_blocks:
            return np.zeros(1, dtype=np.int64)
        return np.concatenate([[0], np.cumsum(self._index.columns["labels"].length)])

    @property
    def all_rows(self) -> Indices:
        return np.arange(self.num_rows)

    def lengths(self, rows: Indices) -> npt.NDArray[np.int32]:
        """How many tokens each row has."""
        self._open(self._blocks(rows))
        return self._lengths[rows]

    def keys(self, rows: Indices) -> list[str]:
        """The tar keys of some rows."""
        return decoded(self.read(rows).keys_N)

    def labels(self, rows: Indices) -> tuple[npt.NDArray[np.int16], Indices]:
        """The label ids of some rows, flat, and where each row's begin: [rows + 1]."""
        self._open(self._blocks(rows))
        counts = self._label_counts[rows].astype(np.int64)
        return self._labels[_ragged(self._label_starts[rows], counts)], _starts(counts)

    def read(self, rows: Indices) -> TokenChunk:
        """Many rows at once; the more, the cheaper each."""
        blocks = self._blocks(rows)
        self._open(blocks)
        labels, label_starts = self.labels(rows)
        lengths = self._lengths[rows]
        order = np.argsort(blocks, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        stored, blocks = rows[order], blocks[order]
        keys = self._gather_keys(stored, blocks)[place]
        window_NWQ = self._gather(stored, blocks, int(lengths.max(initial=0)))
        return TokenChunk(rows, keys, lengths, labels, label_starts, window_NWQ, place)

    def _gather_keys(self, rows: Indices, blocks: Indices) -> Keys:
        """The keys of rows in the order in which they are stored."""
        keys = np.empty(len(rows), dtype=self._key_type)
        for block, here in _runs(blocks):
            keys[here] = self._keys[block][rows[here] - int(self._index.first_row[block])]
        return keys

    @cached_property
    def _key_type(self) -> np.dtype[np.bytes_]:
        """Wide enough for those of every block."""
        columns = self._index.columns
        types = set(columns["keys"].dtype) if columns else {"S1"}
        return max(map(np.dtype, types), key=lambda dtype: dtype.itemsize)

    def _gather(self, rows: Indices, blocks: Indices, width: int) -> Tokens:
        """The next `width` tokens from the start of each row, [N, width, Q]; of a row that has
        fewer, whatever follows it. `blocks` are sorted."""
        num_codebooks = self._index.num_codebooks
        gathered = np.empty((len(rows), width * num_codebooks), dtype=np.uint16)
        for shard, here in _runs(self._index.shard[blocks]) if width else ():
            gathered[here] = self._window(shard, width * num_codebooks)[self._starts[rows[here]]]
        return gathered.reshape(len(rows), width, num_codebooks)

    def _window(self, shard: int, width: int) -> Tokens:
        """Every stretch of `width` values that a tar holds, as a view: [values, width]."""
        if (shard, width) not in self._windows:
            values = self._maps[shard].view("<u2")
            if self._last_value(shard) + width > len(values):  # the end of a tar is seldom so near
                values = np.concatenate([values, np.zeros(width, dtype=np.uint16)])
            self._windows[shard, width] = sliding_window_view(values, width)
        return self._windows[shard, width]

    def _last_value(self, shard: int) -> int:
        """Where the tokens of a shard's last block end."""
        last = int(np.flatnonzero(self._index.shard == shard)[-1])
        tokens = self._index.columns["tokens"]
        return int(tokens.offset[last] + tokens.bytes[last]) // 2

    def _blocks(self, rows: Indices) -> Indices:
        """The block of each row."""
        return np.searchsorted(self._index.first_row, rows, side="right") - 1

    def _open(self, blocks: Indices) -> None:
        """Check the blocks that were not touched yet, and note where their rows lie."""
        for block in np.unique(blocks[~self._is_open[blocks]]).tolist():
            rows = slice(*self._index.first_row[block : block + 2].tolist())
            lengths = self._column(block, "lengths")
            counts = self._column(block, "counts")
            first = int(self._first_label[block])
            self._lengths[rows] = lengths
            self._starts[rows] = self._first_value(block) + _starts(lengths)[:-1] * self._width
            self._label_starts[rows] = first + _starts(counts)[:-1]
            self._label_counts[rows] = counts
            labels = self._column(block, "labels")
            self._labels[first : first + len(labels)] = labels
            self._keys[block] = self._column(block, "keys")
            self._column(block, "tokens")
            self._is_open[block] = True

    def _first_value(self, block: int) -> int:
        return int(self._index.columns["tokens"].offset[block]) // 2

    @property
    def _width(self) -> int:
        return self._index.num_codebooks

    def _column(self, block: int, name: str) -> npt.NDArray[Any]:
        """An array of a block as it lies in the tar, its checksum verified."""
        column = self._index.columns[name]
        shard, start = int(self._index.shard[block]), int(column.offset[block])
        raw = self._maps[shard][start : start + int(column.bytes[block])]
        if google_crc32c.value(raw) != column.crc32c[block]:
            number = self._index.number[block]
            raise IntegrityError(
                f"{self._maps.name(shard)}: block {number}, {name} is damaged; {REPAIR}"
            )
        array: npt.NDArray[Any] = raw.view(np.dtype(column.dtype[block]))
        return array


def open_tokens(layout: Layout, name: str) -> TokenSource:
    """The sealed token set of a codebook; raises NotMadeYet before `tokenize` has finished."""
    seal = open_seal(layout, STAGE, name)
    index = read_token_index(seal.shared_file("index"))
    return TokenSource(index, LocalFiles(layout.root), seal.fingerprint)


def decoded(keys: Keys) -> list[str]:
    return [key.decode() for key in keys.tolist()]


def _starts(sizes: npt.NDArray[np.integer]) -> Indices:
    """Where each of some things of these sizes begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _ragged(starts: Indices, counts: Indices) -> Indices:
    """start, start + 1 ... of each of some stretches, one after another."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)


def _runs(values: Indices) -> Iterator[tuple[int, slice]]:
    """Each stretch of equal neighbours: the value and where it stands."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, stop in pairwise(edges):
        if stop > start:
            yield int(values[start]), slice(start, stop)
