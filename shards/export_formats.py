"""What `export` makes of a token shard: examples, one by one, in formats that others read.

    webdataset   KEY.npy, uint16 [T, Q], and KEY.json, what is known of the clip
    parquet      a row an example, `tokens` list<uint16> of T * Q values, a row group a block

Both say the same of an example: id, key, the source's word on split and fold, num_tokens, and the
ids of its labels with their numbers (where clips are given numbers instead, `targets`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.commit import canonical_json
from shards.plan import ClassName, Task
from shards.stream.tokens import TokenChunk
from shards.tar import TarWriter
from shards.tokens import npy

FROM_INDEX = ("id", "key", "split", "fold")
METADATA_KEY = b"audiolex"  # of a Parquet file: the card, as JSON
LOOKED_AT = 5  # examples from which Hugging Face's datasets takes the types of a tar
WRITE_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Card:
    """What a reader of the examples needs to know of all of them."""

    tokens: str  # the name of the token set
    fingerprint: str  # of its seal
    codebook: str  # the fingerprint of the codebook
    k: int
    num_codebooks: int
    task: Task
    classes: tuple[ClassName, ...]  # a label's number is its place here

    def to_json(self) -> dict[str, Any]:
        """As JSON gives it back."""
        tree: dict[str, Any] = json.loads(canonical_json(asdict(self)))
        return tree


@dataclass(frozen=True)
class Part:
    """The clips of a block: their tokens, and a row on each of them."""

    chunk: TokenChunk
    about: pa.Table


Parts = Iterable[Part]


def part_of(chunk: TokenChunk, index: pa.Table, card: Card) -> Part:
    """`index` are the clips' rows of the shard's index, FROM_INDEX and `targets`."""
    columns = {name: index.column(name) for name in FROM_INDEX}
    columns["num_tokens"] = pa.array(chunk.lengths_N, pa.int32())
    if card.task == "regression":
        columns["targets"] = index.column("targets")
    else:
        names = pa.array([name.id for name in card.classes], pa.string())
        columns["labels"] = _lists(chunk.label_starts, names.take(pa.array(chunk.labels)))
        columns["label_ids"] = _lists(chunk.label_starts, pa.array(chunk.labels, pa.int32()))
    return Part(chunk, pa.table(columns))


def _lists(starts_N1: npt.NDArray[np.int64], values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(starts_N1, pa.int32()), values)


def write_webdataset(path: Path, parts: Parts, _: Card) -> None:
    """A tar of two members an example, in stored order but for `labelled_first`."""
    with TarWriter(path) as tar:
        for part in parts:
            for about, tokens_TQ in labelled_first(_examples(part)):
                tar.add(f"{about['key']}.npy", npy(tokens_TQ))
                tar.add(f"{about['key']}.json", canonical_json(about))


Example = tuple[dict[str, Any], npt.NDArray[np.uint16]]


def _examples(part: Part) -> list[Example]:
    return [*zip(part.about.to_pylist(), part.chunk.clips(), strict=True)]


def labelled_first(examples: Sequence[Example]) -> Sequence[Example]:
    """The examples with one that has labels in front, where none of the first ones does.

    Hugging Face's datasets takes the types of all from the first of a tar, and of an empty list it
    learns none.
    """
    labelled = (n for n, (about, _) in enumerate(examples) if about.get("labels"))
    first = next(labelled, 0)
    if first < LOOKED_AT:
        return examples
    return [examples[first], *examples[:first], *examples[first + 1 :]]


def write_parquet(path: Path, parts: Parts, card: Card) -> None:
    """A row group a block. Dictionaries store a token in as many bits as k needs, where Parquet,
    which has no 16-bit numbers, would take 32."""
    metadata = {METADATA_KEY: json.dumps(card.to_json(), sort_keys=True)}
    tables = (_with_tokens(part, card.num_codebooks) for part in parts)
    with path.open("wb", buffering=WRITE_BUFFER_BYTES) as file:
        _write_tables(file, tables, metadata)


def _write_tables(file: Any, tables: Iterator[pa.Table], metadata: dict[bytes, str]) -> None:
    first = next(tables)
    schema = first.schema.with_metadata(metadata)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        writer.write_table(first.cast(schema))
        for table in tables:
            writer.write_table(table.cast(schema))


def _with_tokens(part: Part, num_codebooks: int) -> pa.Table:
    ends = np.cumsum(part.chunk.lengths_N, dtype=np.int64) * num_codebooks
    flat = pa.array(part.chunk.flat().reshape(-1))
    tokens = _lists(np.concatenate([[0], ends]), flat)
    return part.about.append_column("tokens", tokens)


@dataclass(frozen=True)
class Format:
    """How the files of a format end, and what writes one."""

    suffix: str
    write: Callable[[Path, Parts, Card], None]


FORMATS = {
    "webdataset": Format("tar", write_webdataset),
    "parquet": Format("parquet", write_parquet),
}
