"""Token shards: clips in blocks of at most 1,024, one .npy member a column.

A block `b000017` is one WebDataset sample of flat columns: `tokens` uint16 [sum of lengths, Q],
`lengths` int32 [n], `keys` [n], `labels` int16 [sum of counts] and `counts` uint16 [n]. Blocks,
not clips, because a tar header and an .npy header a clip would cost 100 times the tokens' own
time. An Arrow file indexes all blocks of a sealed set by byte offset, so that a local shard is
memory-mapped and read without unpacking.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.errors import IntegrityError
from shards.commit import CommitRecord
from shards.layout import Layout
from shards.seal import Seal, check_size, open_seal
from shards.tar import TarWriter

STAGE = "tokenize"
BLOCK_CLIPS = 1024

INDEX_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),  # position in the seal
        pa.field("block", pa.int32(), nullable=False),
        pa.field("first_row", pa.int64(), nullable=False),  # of the block, over the whole set
        pa.field("num_rows", pa.int32(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.int64()), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of the array's bytes in the tar
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
    ]
)

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


def write_token_tar(path: Path, blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Write blocks as a tar; returns one dict an array for the index, without its rows."""
    with TarWriter(path) as tar:
        return [
            _add_array(tar, block, column, array)
            for block in blocks
            for column, array in block.columns().items()
        ]


def _add_array(tar: TarWriter, block: Block, column: str, array: Array) -> dict[str, Any]:
    member = tar.add(f"b{block.number:06d}.{column}.npy", _npy(array))
    return {
        "block": block.number,
        "num_rows": len(block.lengths),
        "column": column,
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "offset": member.offset + member.bytes - array.nbytes,
        "bytes": array.nbytes,
        "crc32": zlib.crc32(array.tobytes()),
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
    paths = json.dumps([record.files[0].path for record in records])
    return pa.Table.from_pylist(rows, INDEX_SCHEMA.with_metadata({"shards": paths}))


def write_index(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


class TokenReader:
    """Random access to the clips of a sealed token set; rows count over all shards in order.

    Arrays are views of memory-mapped tars. A block's checksum is verified when it is first
    touched: IntegrityError names the shard, the block and the column.
    """

    def __init__(self, seal: Seal) -> None:
        self.fingerprint = seal.fingerprint
        self._root = seal.layout.root
        self._files = [record.files[0] for record in seal.records]
        with pa.memory_map(str(seal.shared_file("index"))) as source:
            table = pa.ipc.open_file(source).read_all()
        self._arrays: dict[tuple[int, str], Mapping[str, Any]] = {
            (row["block"], row["column"]): row for row in table.to_pylist()
        }
        blocks = sorted({(row["first_row"], block) for (block, _), row in self._arrays.items()})
        self._first_rows = np.array([first for first, _ in blocks], dtype=np.int64)
        self._blocks = [block for _, block in blocks]
        last = self._arrays[self._blocks[-1], "lengths"] if blocks else None
        self.num_clips = int(last["first_row"] + last["num_rows"]) if last else 0
        self._maps: dict[int, npt.NDArray[np.uint8]] = {}
        self._cache: dict[tuple[int, str], Array] = {}

    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of every clip, [num_clips]."""
        return self._all("lengths")

    def keys(self) -> list[str]:
        """Tar keys of all clips, in row order."""
        return [key.decode() for key in self._all("keys").tolist()]

    def labels(self) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
        """All label ids, flat, and where each clip's begin: [num_clips + 1]."""
        counts = self._all("counts").astype(np.int64)
        return self._all("labels"), np.concatenate([[0], np.cumsum(counts)])

    def tokens(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint16]]:
        """The tokens of some clips, each [T, Q] uint16, as views."""
        return [self._clip_tokens(int(row)) for row in rows]

    def _clip_tokens(self, row: int) -> npt.NDArray[np.uint16]:
        position = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        block = self._blocks[position]
        ends = self._ends(block)
        within = row - int(self._first_rows[position])
        start = int(ends[within - 1]) if within else 0
        return self._column(block, "tokens")[start : int(ends[within])]

    def _ends(self, block: int) -> npt.NDArray[np.int64]:
        if (block, "ends") not in self._cache:
            self._cache[block, "ends"] = np.cumsum(self._column(block, "lengths"), dtype=np.int64)
        return self._cache[block, "ends"]

    def _all(self, column: str) -> Array:
        return np.concatenate([self._column(block, column) for block in self._blocks])

    def _column(self, block: int, column: str) -> Array:
        if (block, column) not in self._cache:
            self._cache[block, column] = self._read(self._arrays[block, column])
        return self._cache[block, column]

    def _read(self, row: Mapping[str, Any]) -> Array:
        raw = self._map(row["shard"])[row["offset"] : row["offset"] + row["bytes"]]
        if zlib.crc32(raw.data) != row["crc32"]:
            path = self._root / self._files[row["shard"]].path
            raise IntegrityError(f"{path}: block {row['block']}, {row['column']} is damaged")
        array: Array = raw.view(np.dtype(row["dtype"])).reshape(row["shape"])
        return array

    def _map(self, shard: int) -> npt.NDArray[np.uint8]:
        if shard not in self._maps:
            file = self._files[shard]
            check_size(self._root, file)
            self._maps[shard] = np.memmap(self._root / file.path, dtype=np.uint8, mode="r")
        return self._maps[shard]


def open_tokens(layout: Layout, name: str) -> TokenReader:
    """The sealed token set of a codebook; raises NotMadeYet before `tokenize` has finished."""
    return TokenReader(open_seal(layout, STAGE, name))


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()
