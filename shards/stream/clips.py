"""The decoded clips of a sealed `shard` stage as the index describes them, by row.

Legend: N rows asked for. They count over the decoded clips of all shards in the order of the seal,
as in a token set: row r is the same clip in tokens, frames and audio.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.errors import IntegrityError
from shards.commit import REPAIR, CommitRecord
from shards.index import decoded, read_shard_index
from shards.layout import Layout
from shards.ragged import Indices, ragged, runs, starts_of
from shards.stream.batches import ClipRows
from shards.stream.batches import decoded as decoded_keys
from shards.stream.blocks import Keys
from shards.stream.kept import Kept

COLUMNS = ("key", "labels", "status", "row_start", "num_frames")


@dataclass(frozen=True)
class Part:
    """The decoded clips of one shard, an entry a clip but for `labels`."""

    keys: Keys
    starts: Indices  # of their frames, in the shard's array
    lengths: npt.NDArray[np.int32]  # in frames
    labels: npt.NDArray[np.int16]  # of all clips, flat
    label_starts: Indices
    num_labels: Indices
    further: Mapping[str, Keys]  # columns of text that were asked for

    @property
    def nbytes(self) -> int:
        arrays = [value for value in vars(self).values() if isinstance(value, np.ndarray)]
        return sum(array.nbytes for array in [*arrays, *self.further.values()])

    @classmethod
    def of(cls, rows: pa.Table, further: Sequence[str]) -> Part:
        labels = rows.column("labels").combine_chunks()
        num_labels = labels.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(
            keys=_texts(rows, "key"),
            starts=rows.column("row_start").to_numpy(),
            lengths=rows.column("num_frames").to_numpy(),
            labels=labels.flatten().to_numpy(zero_copy_only=False),
            label_starts=starts_of(num_labels)[:-1],
            num_labels=num_labels,
            further={name: _texts(rows, name) for name in further},
        )


class Clips:
    """What the index says of clips; a shard's part is read when one of its clips is first asked
    for, and kept: some 50 bytes a clip.

    Raises IntegrityError with its name where a part is not the one on record.
    """

    def __init__(
        self, layout: Layout, records: Sequence[CommitRecord], further: Sequence[str] = ()
    ) -> None:
        self._layout, self._records, self._further = layout, records, tuple(further)
        self.counts: Indices = np.array([r.counts["ok"] for r in records], dtype=np.int64)
        self.first_row = starts_of(self.counts)
        self.parts = Kept(self._read)

    @property
    def num_rows(self) -> int:
        return int(self.first_row[-1])

    def shards(self, rows: Indices) -> Indices:
        """The shard of each row, as its place in the seal."""
        return np.searchsorted(self.first_row, rows, side="right") - 1

    def starts(self, rows: Indices) -> Indices:
        """Where the frames of each row begin in the array of its shard."""
        return self._gathered(rows, "starts", np.int64)

    def lengths(self, rows: Indices) -> npt.NDArray[np.int32]:
        """How many frames each row has."""
        return self._gathered(rows, "lengths", np.int32)

    def keys(self, rows: Indices) -> Keys:
        """The tar key of each row."""
        return self._gathered(rows, "keys", np.bytes_)

    def labels(self, rows: Indices) -> tuple[npt.NDArray[np.int16], Indices]:
        """The label ids of some rows, flat, and where each row's begin: [N + 1]."""
        counts = self._gathered(rows, "num_labels", np.int64)
        starts = starts_of(counts)
        flat = np.empty(starts[-1], dtype=np.int16)
        for shard, here, clips in self.by_shard(rows):
            part, places = self.parts[shard], ragged(starts[here], counts[here])
            flat[places] = part.labels[ragged(part.label_starts[clips], counts[here])]
        return flat, starts

    def of(self, rows: Indices) -> ClipRows:
        """All of that."""
        return ClipRows(rows, self.keys(rows), self.lengths(rows), *self.labels(rows))

    def by_shard(self, rows: Indices) -> Iterator[tuple[int, Indices, Indices]]:
        """Rows in the order in which they are stored, shard by shard: the shard, where its rows
        stand in `rows`, and which of its clips they are."""
        order = np.argsort(rows, kind="stable")
        for shard, sorted_here in runs(self.shards(rows[order])):
            here = order[sorted_here]
            yield shard, here, rows[here] - self.first_row[shard]

    def _gathered(self, rows: Indices, column: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
        values: list[npt.NDArray[Any]] = [np.empty(0, dtype=dtype)]
        places: list[Indices] = [np.empty(0, dtype=np.int64)]
        for shard, here, clips in self.by_shard(rows):
            values.append(getattr(self.parts[shard], column)[clips])
            places.append(here)
        stored = np.concatenate(values)
        gathered = np.empty_like(stored)
        gathered[np.concatenate(places)] = stored
        return gathered

    def _read(self, shard: int) -> Part:
        record = self._records[shard]
        rows = decoded(read_shard_index(self._layout, record, [*COLUMNS, *self._further]))
        if len(rows) != self.counts[shard]:
            name = record.file("index/").path
            raise IntegrityError(f"{name} does not hold the clips on record; {REPAIR}")
        return Part.of(rows, self._further)


class ClipSource:
    """What sources of decoded clips have in common; `args` make another one of the same kind."""

    def __init__(self, clips: Clips, fingerprint: str, args: tuple[Any, ...]) -> None:
        self.fingerprint, self.num_rows = fingerprint, clips.num_rows
        self._clips, self._args = clips, args

    def __reduce__(self) -> tuple[Any, ...]:  # loader workers read, and keep, for themselves
        return type(self), self._args

    @property
    def all_rows(self) -> Indices:
        return np.arange(self.num_rows)

    def lengths(self, rows: Indices) -> npt.NDArray[np.int32]:
        """How many frames each row has; its samples are in proportion."""
        return self._clips.lengths(rows)

    def keys(self, rows: Indices) -> list[str]:
        """The tar keys of some rows."""
        return decoded_keys(self._clips.keys(rows))

    def labels(self, rows: Indices) -> tuple[npt.NDArray[np.int16], Indices]:
        """The label ids of some rows, flat, and where each row's begin: [N + 1]."""
        return self._clips.labels(rows)


def _texts(rows: pa.Table, column: str) -> Keys:
    return np.array([text.encode() for text in rows.column(column).to_pylist()], dtype=np.bytes_)


def without_detail(records: Sequence[CommitRecord]) -> tuple[CommitRecord, ...]:
    """Records as far as readers need them, to keep and to send to loader workers."""
    return tuple(replace(record, detail={}) for record in records)
