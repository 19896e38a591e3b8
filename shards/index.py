"""The index of a shard: one Parquet row for each of its clips, decoded or quarantined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import RecipeMismatch
from configs.schema import Config
from shards.commit import CommitRecord, StageLog, differences
from shards.layout import Layout
from shards.seal import Seal, check_bytes, open_seal

STAGE, NAME = "shard", "default"  # whose records name the parts
OK = "ok"
QUARANTINED = "quarantined"
WRITE_BUFFER_BYTES = 1 << 20
EXAMPLES = 3  # ids shown for each reason

INDEX_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),  # in the tars
        pa.field("labels", pa.list_(pa.int16()), nullable=False),
        pa.field("targets", pa.list_(pa.float32()), nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # what the source declares
        pa.field("fold", pa.int8(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),  # of the quarantine: a stable code
        pa.field("detail", pa.string()),  # of the quarantine: for people
        pa.field("row_start", pa.int64()),  # in the shard's frame array
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("decoder", pa.string()),
        pa.field("container", pa.string()),  # what the file really was
        pa.field("source", pa.string(), nullable=False),  # path below the source's root
        pa.field("source_rate_hz", pa.int32()),
        pa.field("source_channels", pa.int16()),
        pa.field("source_samples", pa.int64()),  # a channel
        pa.field("source_sha256", pa.string()),  # of the file's bytes, if they could be read
    ]
)


def write_index(path: Path, rows: list[dict[str, object]]) -> None:
    """Write the rows of one shard, in plan order."""
    table = pa.Table.from_pylist(rows, INDEX_SCHEMA)
    with path.open("wb", buffering=WRITE_BUFFER_BYTES) as file:  # Arrow writes a few bytes a call
        pq.write_table(table, file, compression="zstd")


def open_shards(layout: Layout) -> Seal:
    """A run's decoded clips; raises NotMadeYet before `shard` has finished, IntegrityError where
    a record is not the one that was sealed."""
    return open_seal(layout, STAGE, NAME)


def check_settings(seal: Seal, config: Config) -> None:
    """Raises RecipeMismatch where a config says of a run's frames what they are not."""
    stored = StageLog(seal.layout, STAGE, NAME).recipe()
    if stored is None:  # `shard` and `verify` say what to do
        return
    asked = {
        "frames": config.frames.model_dump(mode="json"),
        "audio": {"sample_rate_hz": config.audio.sample_rate_hz},
    }
    there = {
        "frames": stored["frames"],
        "audio": {"sample_rate_hz": stored["audio"]["sample_rate_hz"]},
    }
    if there != asked:
        raise RecipeMismatch(
            f"{seal.layout.root}: the frames",
            differences(there, asked),
            "Ask for what they were made with, or give another run=DIR for others.",
        )


def read_index(
    layout: Layout, records: Iterable[CommitRecord], columns: list[str] | None = None
) -> pa.Table:
    """The rows of all clips of some shards, in order, INDEX_SCHEMA (or some columns of it).

    Raises IntegrityError where a part is not the one on record.
    """
    parts = [read_shard_index(layout, record, columns) for record in records]
    return pa.concat_tables(parts)


def read_shard_index(
    layout: Layout, record: CommitRecord, columns: list[str] | None = None
) -> pa.Table:
    """The index of a committed shard; raises IntegrityError unless it is the one on record."""
    file = record.file("index/")
    check_bytes(layout.root, file)
    return pq.read_table(layout.root / file.path, columns=columns)


def decoded(table: pa.Table) -> pa.Table:
    """The rows that have frames, in order: the rows that later stages count by."""
    return table.filter(pc.equal(table.column("status"), OK))


@dataclass(frozen=True)
class Refusals:
    """Clips of one reason: how many, the ids of the first, and the first one's detail."""

    reason: str
    count: int
    examples: tuple[str, ...]
    detail: str


def refusals(layout: Layout, records: Iterable[CommitRecord]) -> list[Refusals]:
    """The quarantine of committed shards by reason, the most frequent first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        table = read_shard_index(layout, record, ["id", "status", "reason", "detail"])
        refused = table.filter(pc.equal(table.column("status"), QUARANTINED))
        for row in refused.to_pylist():
            found.setdefault(row["reason"], []).append((row["id"], row["detail"]))
    groups = [
        Refusals(reason, len(clips), tuple(i for i, _ in clips[:EXAMPLES]), clips[0][1])
        for reason, clips in found.items()
    ]
    return sorted(groups, key=lambda group: (-group.count, group.reason))
