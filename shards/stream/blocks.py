"""The blocks of a token set: checked when first touched, and what is done where one is damaged.

What a reader needs to find the rows of a block is noted then, so that it is read only once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import google_crc32c
import numpy as np
import numpy.typing as npt

from configs.console import counted, say
from configs.errors import IntegrityError
from shards.ragged import Indices, starts_of
from shards.stream.files import Mapped, Maps, untouched
from shards.tokens import COLUMNS, TokenIndex

Keys = npt.NDArray[np.bytes_]
OnDamage = Literal["raise", "refetch", "mask"]


@dataclass(frozen=True)
class Damage:
    """A block whose bytes are not those on record, and the first of its columns that shows it."""

    shard: str
    block: int
    column: str
    num_rows: int

    def __str__(self) -> str:
        return f"{self.shard}: block {self.block}, {self.column} is damaged"


class Blocks:
    """What is known of the blocks that were touched. Rows count over the whole set.

    A damaged block that is masked has nothing: its rows have no tokens and no labels, and their
    keys are empty. Of its columns those that are whole are not believed either.
    """

    def __init__(self, index: TokenIndex, maps: Maps, on_damage: OnDamage) -> None:
        self._index, self._maps, self._on_damage = index, maps, on_damage
        self._is_open = np.zeros(index.num_blocks, dtype=bool)
        self._damaged: dict[int, Damage] = {}
        self._lock = threading.Lock()
        self.is_whole = np.ones(index.num_blocks, dtype=bool)
        # Filled in block by block; the pages of what was never touched cost no memory.
        self.lengths = untouched(index.num_rows, np.int32)
        self.starts = untouched(index.num_rows, np.int64)  # of tokens, in 2 bytes of the tar
        self.label_starts = untouched(index.num_rows, np.int64)
        self.label_counts = untouched(index.num_rows, np.uint16)
        self.labels = untouched(int(self._first_label[-1]), np.int16)

    @cached_property
    def _first_label(self) -> Indices:
        """Of each block, over the whole set: [blocks + 1]."""
        if not self._index.num_blocks:
            return np.zeros(1, dtype=np.int64)
        return starts_of(self._index.columns["labels"].length)

    @property
    def damaged(self) -> list[Damage]:
        """The blocks that are masked, in their order."""
        return [self._damaged[block] for block in sorted(self._damaged)]

    def open(self, blocks: Indices) -> None:
        """Check the blocks that were not touched yet, and note where their rows lie."""
        is_asked = np.zeros_like(self._is_open)
        is_asked[blocks] = True
        for block in np.flatnonzero(is_asked & ~self._is_open).tolist():
            self._open(block)

    def keys(self, block: int) -> Keys:
        """The keys of an open block that is whole, as they lie in the tar."""
        return self._array(block, "keys", self._maps[int(self._index.shard[block])])

    def _open(self, block: int) -> None:
        """Arrays of the shard live no longer than this call: while one is held, so is the map."""
        rows = slice(*self._index.first_row[block : block + 2].tolist())
        first = int(self._first_label[block])
        if (columns := self._checked(block)) is None:
            self.lengths[rows] = self.starts[rows] = self.label_counts[rows] = 0
            self.label_starts[rows] = first
            self.is_whole[block] = False
        else:
            offset = int(self._index.columns["tokens"].offset[block]) // 2
            row_starts = starts_of(columns["lengths"])[:-1]
            self.lengths[rows] = columns["lengths"]
            self.starts[rows] = offset + row_starts * self._index.num_codebooks
            self.label_starts[rows] = first + starts_of(columns["counts"])[:-1]
            self.label_counts[rows] = columns["counts"]
            self.labels[first : first + len(columns["labels"])] = columns["labels"]
        self._is_open[block] = True

    def _checked(self, block: int) -> Mapping[str, npt.NDArray[Any]] | None:
        """All columns of a block; None where it is masked. Raises IntegrityError for damage that is
        neither masked nor mended."""
        shard = int(self._index.shard[block])
        mapped, again = self._maps[shard], ""
        damage = self._damage(block, mapped)
        if damage is not None and self._on_damage == "refetch":
            bad = mapped.status
            del mapped  # the room that it takes may be all that there is
            self._maps.replace(shard, bad)
            self._is_open[self._index.shard == shard] = False  # they were checked in another copy
            mapped, again = self._maps[shard], ", also in a fresh copy"
            damage = self._damage(block, mapped)
        if damage is None:
            return {name: self._array(block, name, mapped) for name in COLUMNS}
        if self._on_damage != "mask":
            raise IntegrityError(f"{damage}{again}; {self._maps.cure}")
        self._note(block, damage)
        return None

    def _damage(self, block: int, mapped: Mapped) -> Damage | None:
        """The first column of a block whose checksum fails."""
        for name in COLUMNS:
            raw = self._array(block, name, mapped).view(np.uint8)
            if google_crc32c.value(raw) != self._index.columns[name].crc32c[block]:
                num_rows = int(np.diff(self._index.first_row[block : block + 2])[0])
                shard, number = int(self._index.shard[block]), int(self._index.number[block])
                return Damage(self._maps.name(shard), number, name, num_rows)
        return None

    def _array(self, block: int, name: str, mapped: Mapped) -> npt.NDArray[Any]:
        """An array of a block, flat, as it lies in the tar."""
        column = self._index.columns[name]
        start = int(column.offset[block])
        raw = mapped.data[start : start + int(column.bytes[block])]
        array: npt.NDArray[Any] = raw.view(np.dtype(column.dtype[block]))
        return array

    def _note(self, block: int, damage: Damage) -> None:
        """Keep account of a masked block, and say it once a shard."""
        with self._lock:
            is_first = damage.shard not in {other.shard for other in self._damaged.values()}
            self._damaged[block] = damage
        if is_first:
            clips = counted(damage.num_rows, "clip")
            say(f"warning: {damage}: its {clips} weigh nothing (data.on_damage=mask)")
