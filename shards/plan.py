"""The plan: every clip of a job, frozen before anything is made.

Clips stand in the order of a hash of their ids, so a shard is a fair sample of the set and the
order does not depend on how the source lists them. Shard k is rows [k * n, (k + 1) * n) of
`plan.parquet`, which is one Parquet row group: a worker reads its own rows and no others.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import InputError, IntegrityError, RecipeMismatch
from configs.schema import ShardsConfig
from shards.atomic import Attempt, sha256_file, write_whole
from shards.commit import canonical_json, differences, fingerprint
from shards.layout import Layout

FORMAT = 1
Task = Literal["multilabel", "multiclass"]

CLIP_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # relative to the source's root
        pa.field("labels", pa.list_(pa.int16()), nullable=False),  # indices into the classes
        pa.field("set", pa.string(), nullable=False),  # the source set, as `balanced`
        pa.field("split", pa.string(), nullable=False),  # what the source declares
        pa.field("fold", pa.int8(), nullable=False),  # 0: the source has no folds
        pa.field("duration_s", pa.float32()),  # as the source declares it, if it does
    ]
)


@dataclass(frozen=True)
class ClassName:
    """One class: its id in the source (AudioSet's mid) and its name for people."""

    id: str
    name: str


@dataclass(frozen=True)
class Catalogue:
    """What a source offers: clips (CLIP_SCHEMA), classes, and the kind of task they make."""

    clips: pa.Table
    classes: tuple[ClassName, ...]
    task: Task


@dataclass(frozen=True)
class Plan:
    """A frozen plan: its size, classes and fingerprint; rows are read by shard."""

    table_path: Path
    num_clips: int
    num_shards: int
    clips_per_shard: int
    task: Task
    classes: tuple[ClassName, ...]
    fingerprint: str

    def rows(self, shard: int) -> pa.Table:
        """The clips of one shard, CLIP_SCHEMA, in plan order."""
        return pq.ParquetFile(self.table_path).read_row_group(shard)

    def column(self, name: str) -> pa.ChunkedArray:
        return pq.read_table(self.table_path, columns=[name]).column(name)


def freeze(
    layout: Layout, catalogue: Catalogue, recipe: Mapping[str, Any], shards: ShardsConfig
) -> Plan:
    """Write the plan of a run. Only while nothing is committed: then it stands."""
    per_shard = clips_per_shard(catalogue.clips.num_rows, shards)
    with Attempt(layout.partial, "plan") as attempt:
        table = in_hash_order(catalogue.clips)
        pq.write_table(table, attempt.path("table"), row_group_size=per_shard, compression="zstd")
        tree = _describe(catalogue, recipe, per_shard, sha256_file(attempt.path("table")))
        attempt.publish("table", layout.plan_table)
    write_whole(layout.partial, layout.plan_json, canonical_json(tree))
    return load(layout)


def load(layout: Layout) -> Plan:
    """The run's frozen plan. Call only where `layout.plan_json` exists."""
    tree = _read_json(layout)
    return Plan(
        table_path=layout.plan_table,
        num_clips=tree["clips"],
        num_shards=-(-tree["clips"] // tree["clips_per_shard"]),
        clips_per_shard=tree["clips_per_shard"],
        task=tree["task"],
        classes=tuple(ClassName(**name) for name in tree["classes"]),
        fingerprint=fingerprint(tree),
    )


def check_recipe(layout: Layout, recipe: Mapping[str, Any]) -> None:
    """Raises RecipeMismatch where the frozen plan was made from another source or sharding."""
    stored = _read_json(layout)["recipe"]
    asked = json.loads(canonical_json(recipe))
    if stored != asked:
        cure = "Ask for the old settings again, or give another run=DIR for the new ones."
        raise RecipeMismatch(f"{layout.root}: the plan", differences(stored, asked), cure)


def _read_json(layout: Layout) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = json.loads(layout.plan_json.read_bytes())
    except ValueError:
        raise IntegrityError(
            f"{layout.plan_json} is damaged: restore it from a copy, or begin again in another run"
        ) from None
    return tree


def clips_per_shard(num_clips: int, config: ShardsConfig) -> int:
    """The configured number, or fewer where the set would not fill `min_shards` shards."""
    return max(1, min(config.clips_per_shard, num_clips // config.min_shards))


def in_hash_order(clips: pa.Table) -> pa.Table:
    """The clips sorted by a hash of their ids; raises InputError for an id listed twice."""
    ids = clips.column("id").to_pylist()
    if not ids:
        raise InputError("the source lists no clips")
    if "" in ids:
        raise InputError("the source lists a clip without an id")
    _refuse_doubles(clips)
    hashes = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    order = np.argsort(np.frombuffer(hashes, dtype=">u8"), kind="stable")
    return clips.take(pa.array(order)).combine_chunks()


def _refuse_doubles(clips: pa.Table) -> None:
    counts = clips.column("id").value_counts()
    doubled = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if doubled:
        rows = clips.filter(pc.equal(clips.column("id"), doubled[0]))
        sets = ", ".join(sorted(set(rows.column("set").to_pylist())))
        raise InputError(
            f"{len(doubled)} clip ids are listed twice, first {doubled[0]!r} (in {sets}): a clip "
            "may stand in one source set once; remove the others from the lists"
        )


def _describe(
    catalogue: Catalogue, recipe: Mapping[str, Any], per_shard: int, table_sha256: str
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "clips": catalogue.clips.num_rows,
        "clips_per_shard": per_shard,
        "sets": dict(sorted(Counter(catalogue.clips.column("set").to_pylist()).items())),
        "task": catalogue.task,
        "classes": [vars(name) for name in catalogue.classes],
        "recipe": dict(recipe),
        "table_sha256": table_sha256,
    }
