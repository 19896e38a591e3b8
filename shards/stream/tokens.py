"""The clips of a sealed token set, many rows at a time, straight from memory-mapped tars.

Legend: N rows asked for, B clips of a batch, T tokens of its longest, Q codebooks, C classes.

Rows are gathered column by column, in the order in which they are stored; a loop over clips would
cost more than everything else together. Blocks are checked when first touched (`blocks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.data import DataConfig
from configs.errors import IntegrityError
from shards.codebook import open_codebook
from shards.commit import fingerprint
from shards.index import open_shards
from shards.layout import Layout
from shards.ragged import Indices, ragged, runs, sorted_places, starts_of
from shards.seal import open_seal
from shards.stream.batches import ClipBatch, ClipRows, decoded
from shards.stream.blocks import Blocks, Damage, Keys, OnDamage
from shards.stream.files import Files, Maps
from shards.stream.remote import files_of
from shards.stream.schedule import Piece
from shards.tokens import STAGE, TokenIndex, read_token_index, recipe

Tokens = npt.NDArray[np.uint16]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TokenChunk(ClipRows):
    """Some rows of a token set, in the order in which they were asked for.

    `window_NWQ` holds them in the order in which they are stored, each with what happens to
    follow it up to the longest; `place_N` says where each row's is. A row of a damaged block has
    no tokens, no labels and an empty key.
    """

    window_NWQ: Tokens
    place_N: Indices
    is_whole_N: Bools

    @cached_property
    def all_whole(self) -> bool:
        return bool(self.is_whole_N.all())

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
class TokenBatch(ClipBatch):
    """Some clips, padded to the longest of them; `lengths_B` are in tokens. Those of weight 0 only
    fill the batch up, or are damaged: one token of padding."""

    tokens_BTQ: npt.NDArray[np.int64]


def token_batch(
    chunk: TokenChunk, piece: Piece, *, pad_id: int, width: int | None = None
) -> TokenBatch:
    """A piece of a chunk; `width` pads to so many tokens, if the longest clip has fewer."""
    rows, known = piece.rows, chunk.of_batch(piece)
    lengths_B = known["lengths_B"]
    tokens_BTQ = np.take(chunk.window_NWQ, chunk.place_N[rows], axis=0).astype(np.int64)
    if not chunk.is_even:
        longest = int(lengths_B.max(initial=0 if chunk.all_whole else 1))
        tokens_BTQ = tokens_BTQ[:, :longest]
        tokens_BTQ[np.arange(longest) >= lengths_B[:, None]] = pad_id
    if not chunk.all_whole:
        is_whole_B = chunk.is_whole_N[rows]
        known["lengths_B"] = np.where(is_whole_B, lengths_B, 1)
        known["weights_B"] = known["weights_B"] * is_whole_B
    if width is not None and width > tokens_BTQ.shape[1]:
        beyond = ((0, 0), (0, width - tokens_BTQ.shape[1]), (0, 0))
        tokens_BTQ = np.pad(tokens_BTQ, beyond, constant_values=pad_id)
    return TokenBatch(**known, tokens_BTQ=tokens_BTQ)


class TokenSource:
    """Random access to a sealed token set; rows count over all shards in order.

    Raises IntegrityError with the shard, the block and the column where a checksum fails, unless
    `on_damage` has another answer.
    """

    rows_at_once = 8192

    def __init__(
        self, index: TokenIndex, files: Files, fingerprint: str, on_damage: OnDamage = "raise"
    ) -> None:
        self.fingerprint = fingerprint
        self.num_rows = index.num_rows
        self.unit_sizes: Indices = np.diff(index.first_row)
        self.index = index
        self._maps = Maps(files, index.files)
        self._blocks = Blocks(index, self._maps, on_damage)
        self._on_damage = on_damage

    def __reduce__(self) -> tuple[Any, ...]:  # loader workers map the shards for themselves
        return type(self), (self.index, self._maps.files, self.fingerprint, self._on_damage)

    def paths(self) -> list[Path]:
        """The shards' files; raises IntegrityError for one that is not there in its full size."""
        return [self._maps.path(shard) for shard in range(len(self.index.files))]

    @property
    def all_rows(self) -> Indices:
        return np.arange(self.num_rows)

    @property
    def damaged(self) -> list[Damage]:
        """The blocks that were touched and are masked."""
        return self._blocks.damaged

    def lengths(self, rows: Indices) -> npt.NDArray[np.int32]:
        """How many tokens each row has; 0 of a damaged one."""
        self._opened(rows)
        return self._blocks.lengths[rows]

    def is_whole(self, rows: Indices) -> Bools:
        """Which rows could be read; the others are masked."""
        return self._blocks.is_whole[self._opened(rows)]

    def keys(self, rows: Indices) -> list[str]:
        """The tar keys of some rows; an empty one of a damaged row."""
        blocks = self._opened(rows)
        order, place = sorted_places(blocks)
        return decoded(self._gather_keys(rows[order], blocks[order])[place])

    def labels(self, rows: Indices) -> tuple[npt.NDArray[np.int16], Indices]:
        """The label ids of some rows, flat, and where each row's begin: [rows + 1]."""
        self._opened(rows)
        counts = self._blocks.label_counts[rows].astype(np.int64)
        flat = self._blocks.labels[ragged(self._blocks.label_starts[rows], counts)]
        return flat, starts_of(counts)

    def read(self, rows: Indices) -> TokenChunk:
        """Many rows at once; the more, the cheaper each."""
        blocks = self._opened(rows)
        labels, label_starts = self.labels(rows)
        lengths, is_whole = self._blocks.lengths[rows], self._blocks.is_whole[blocks]
        order, place = sorted_places(blocks)
        stored, blocks = rows[order], blocks[order]
        keys = self._gather_keys(stored, blocks)[place]
        width = int(lengths.max(initial=0 if is_whole.all() else 1))
        window_NWQ = self._gather(stored, blocks, width)
        return TokenChunk(rows, keys, lengths, labels, label_starts, window_NWQ, place, is_whole)

    def _gather_keys(self, rows: Indices, blocks: Indices) -> Keys:
        """The keys of rows in the order in which they are stored."""
        keys = np.zeros(len(rows), dtype=self._key_type)
        for block, here in runs(blocks):
            if self._blocks.is_whole[block]:
                first_row = int(self.index.first_row[block])
                keys[here] = self._blocks.keys(block)[rows[here] - first_row]
        return keys

    @cached_property
    def _key_type(self) -> np.dtype[np.bytes_]:
        """Wide enough for those of every block."""
        columns = self.index.columns
        types = set(columns["keys"].dtype) if columns else {"S1"}
        return max(map(np.dtype, types), key=lambda dtype: dtype.itemsize)

    def _gather(self, rows: Indices, blocks: Indices, width: int) -> Tokens:
        """The next `width` tokens from the start of each row, [N, width, Q]; of a row that has
        fewer, whatever follows it. `blocks` are sorted."""
        num_codebooks = self.index.num_codebooks
        gathered = np.empty((len(rows), width * num_codebooks), dtype=np.uint16)
        for shard, here in runs(self.index.shard[blocks]) if width else ():
            # No array of a shard is kept while the next one is mapped: there may be room for one.
            _copy_windows(self._values(shard), self._blocks.starts[rows[here]], gathered[here])
        return gathered.reshape(len(rows), width, num_codebooks)

    def _values(self, shard: int) -> Tokens:
        """All bytes of a tar as numbers, some of which are tokens."""
        return self._maps[shard].data.view("<u2")

    def _opened(self, rows: Indices) -> Indices:
        """The block of each row, all of them checked."""
        blocks = np.searchsorted(self.index.first_row, rows, side="right") - 1
        self._blocks.open(blocks)
        return blocks


def _copy_windows(values: Tokens, starts: Indices, windows_NW: Tokens) -> None:
    """Fill each window with the values from its start on, as far as there are any."""
    width = windows_NW.shape[1]
    num_whole = max(0, len(values) - width + 1)
    whole_VW = np.ndarray((num_whole, width), np.uint16, values, strides=values.strides * 2)
    is_whole_N = starts < num_whole
    if is_whole_N.all():
        windows_NW[:] = whole_VW[starts]  # np.take would copy all windows first
        return
    windows_NW[is_whole_N] = whole_VW[starts[is_whole_N]]
    for row in np.flatnonzero(~is_whole_N).tolist():  # at the end of a file
        rest = values[starts[row] :]
        windows_NW[row, : len(rest)] = rest
        windows_NW[row, len(rest) :] = 0


def open_tokens(layout: Layout, name: str, config: DataConfig | None = None) -> TokenSource:
    """The sealed token set of a codebook; raises NotMadeYet before `tokenize` has finished."""
    config = config or DataConfig()
    seal = open_seal(layout, STAGE, name)
    index = read_token_index(seal.shared_file("index"))
    files = files_of(layout.root, config)
    return TokenSource(index, files, seal.fingerprint, config.on_damage)


def refuse_foreign(layout: Layout, name: str) -> None:
    """Raises IntegrityError where the tokens are not those of the run's frames under its codebook;
    compares fingerprints, and touches no shard."""
    frames, (_, codebook) = open_shards(layout).fingerprint, open_codebook(layout, name)
    if open_seal(layout, STAGE, name).recipe_fingerprint != fingerprint(recipe(frames, codebook)):
        raise IntegrityError(
            f"{layout.root}: the tokens of {name} were made of other frames, or with another "
            "codebook, than the run holds now; run `python -m pipeline tokenize` and do as it says"
        )
