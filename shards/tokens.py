"""Token shards: clips in blocks of at most 1,024, one .npy member a column.

A block `b000017` is one WebDataset sample of flat columns: `tokens` uint16 [sum of lengths, Q],
`lengths` int32 [n], `keys` [n], `labels` int16 [sum of counts] and `counts` uint16 [n]. Blocks,
not clips, because a tar header and an .npy header a clip would cost 100 times the tokens' own
time. An Arrow file indexes all blocks of a sealed set by byte offset, so that a local shard is
memory-mapped and read without unpacking. Checksums are CRC-32C, for which processors have an
instruction: a block is checked in 0.04 ms, where zlib's CRC-32 takes ten times as long.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import IntegrityError
from shards.commit import CommitRecord, FileRecord
from shards.ragged import Indices, starts_of
from shards.tar import TarWriter

STAGE = "tokenize"
FORMAT = 3
BLOCK_CLIPS = 1024
COLUMNS = ("tokens", "lengths", "keys", "labels", "counts")  # of a block

INDEX_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),  # position in the seal
        pa.field("block", pa.int32(), nullable=False),
        pa.field("first_row", pa.int64(), nullable=False),  # of the block, over the whole set
        pa.field("num_rows", pa.int32(), nullable=False),
        pa.field("longest", pa.int32(), nullable=False),  # clip of the block, in tokens
        pa.field("column", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.int64()), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of the array's bytes in the tar
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("crc32c", pa.uint32(), nullable=False),
    ]
)

SHARDS_KEY = b"shards"  # of the schema's metadata: the shards' files, as JSON

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Block:
    """The columns of up to BLOCK_CLIPS clips. A clip's tokens are its `lengths[i]` rows."""

    number: int
    tokens_SQ: npt.NDArray[np.uint16]
    keys: Sequence[str]
    lengths: npt.NDArray[np.int32]
    labels: Sequence[Sequence[int]]

    def columns(self) -> dict[str, Array]:
        flat = [label for labels in self.labels for label in labels]
        return {
            "tokens": np.ascontiguousarray(self.tokens_SQ, dtype="<u2"),
            "lengths": self.lengths.astype("<i4"),
            "keys": np.array([key.encode() for key in self.keys], dtype=np.bytes_),
            "labels": np.array(flat, dtype="<i2"),
            "counts": np.array([len(labels) for labels in self.labels], dtype="<u2"),
        }


def recipe(frames: str, codebook: str) -> dict[str, Any]:
    """What decides the tokens of a set: the fingerprints of the sealed frames and of the
    codebook."""
    return {"format": FORMAT, "frames": frames, "codebook": codebook}


def block_name(number: int) -> str:
    """The key of a block's sample in its tar."""
    return f"b{number:06d}"


def write_token_tar(path: Path, blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Write blocks as a tar; returns one dict an array for the index, without its rows."""
    with TarWriter(path) as tar:
        return [
            _add_array(tar, block, column, array)
            for block in blocks
            for column, array in block.columns().items()
        ]


def _add_array(tar: TarWriter, block: Block, column: str, array: Array) -> dict[str, Any]:
    member = tar.add(f"{block_name(block.number)}.{column}.npy", npy(array))
    return {
        "block": block.number,
        "num_rows": len(block.lengths),
        "longest": int(block.lengths.max(initial=0)),
        "column": column,
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "offset": member.offset + member.bytes - array.nbytes,
        "bytes": array.nbytes,
        "crc32c": google_crc32c.value(array.tobytes()),
    }


def index_table(records: Sequence[CommitRecord]) -> pa.Table:
    """The index of a whole set, INDEX_SCHEMA, from the records of its shards in order."""
    rows: list[dict[str, Any]] = []
    first_row = 0
    for position, record in enumerate(records):
        for block in sorted({array["block"] for array in record.detail["arrays"]}):
            arrays = [array for array in record.detail["arrays"] if array["block"] == block]
            rows += [{**array, "shard": position, "first_row": first_row} for array in arrays]
            first_row += arrays[0]["num_rows"]
    files = json.dumps([vars(record.files[0]) for record in records])
    return pa.Table.from_pylist(rows, INDEX_SCHEMA.with_metadata({SHARDS_KEY: files}))


def write_index(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@dataclass(frozen=True)
class ColumnIndex:
    """Where the arrays of one column lie, an entry a block."""

    dtype: Sequence[str]
    length: Indices  # along the first axis
    offset: Indices
    bytes: Indices
    crc32c: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, table: pa.Table, rows: Indices) -> Self:
        """From some rows of an index."""
        dtype, shape = table.column("dtype").to_pylist(), table.column("shape")
        return cls(
            [dtype[row] for row in rows.tolist()],
            pc.list_flatten(shape).to_numpy()[starts_of(_list_sizes(shape))[rows]],
            *(table.column(name).to_numpy()[rows] for name in ("offset", "bytes", "crc32c")),
        )

    def only(self, blocks: slice) -> ColumnIndex:
        """The entries of some blocks."""
        return ColumnIndex(
            self.dtype[blocks],
            self.length[blocks],
            self.offset[blocks],
            self.bytes[blocks],
            self.crc32c[blocks],
        )


@dataclass(frozen=True)
class TokenIndex:
    """The blocks of a sealed set in row order: whose shard, which rows, where their columns lie."""

    files: tuple[FileRecord, ...]  # the shards
    shard: Indices  # [blocks], position in `files`
    number: Indices  # [blocks], as in the tars
    first_row: Indices  # [blocks + 1]
    longest: Indices  # [blocks], tokens of the longest clip
    num_codebooks: int
    columns: Mapping[str, ColumnIndex]

    @property
    def num_rows(self) -> int:
        return int(self.first_row[-1])

    @property
    def num_blocks(self) -> int:
        return len(self.shard)

    def only(self, shard: int) -> TokenIndex:
        """The index of one shard as if it were the whole set, so that it can be read and let go."""
        blocks = slice(*np.searchsorted(self.shard, [shard, shard + 1]).tolist())
        first_row = self.first_row[blocks.start : blocks.stop + 1]
        return TokenIndex(
            files=(self.files[shard],),
            shard=np.zeros(blocks.stop - blocks.start, dtype=np.int64),
            number=self.number[blocks],
            first_row=first_row - first_row[0],
            longest=self.longest[blocks],
            num_codebooks=self.num_codebooks,
            columns={name: column.only(blocks) for name, column in self.columns.items()},
        )


def read_token_index(path: Path) -> TokenIndex:
    """The index of a sealed set, a few kilobytes a shard; raises IntegrityError for one of an
    earlier format."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    if missing := set(INDEX_SCHEMA.names) - set(table.column_names):
        raise IntegrityError(
            f"{path}: is of an earlier format, without {', '.join(sorted(missing))}: make the "
            "tokens again in another run=DIR, or under another codebook.name"
        )
    files = tuple(FileRecord(**file) for file in json.loads(table.schema.metadata[SHARDS_KEY]))
    # Arrow would import pandas, where that is installed, to compare with a word of Python's: 1 s.
    column_of = np.array(table.column("column").to_pylist(), dtype=np.str_)
    rows_of = {
        name: np.flatnonzero(column_of == name) for name in dict.fromkeys(column_of.tolist())
    }
    if not rows_of:
        nothing = np.zeros(0, dtype=np.int64)
        return TokenIndex(files, nothing, nothing, np.zeros(1, dtype=np.int64), nothing, 1, {})
    tokens = rows_of["tokens"]
    shard, number, num_rows, longest = (
        table.column(name).to_numpy()[tokens].astype(np.int64)
        for name in ("shard", "block", "num_rows", "longest")
    )
    return TokenIndex(
        files=files,
        shard=shard,
        number=number,
        first_row=starts_of(num_rows),
        longest=longest,
        num_codebooks=table.column("shape")[int(tokens[0])][1].as_py(),
        columns={name: ColumnIndex.of(table, rows) for name, rows in rows_of.items()},
    )


def _list_sizes(lists: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    sizes: npt.NDArray[np.int32] = pc.list_value_length(lists).to_numpy()
    return sizes


def npy(array: Array) -> bytes:
    """An array as a file of its own; never pickled."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()
