"""The plan: every clip of a job, frozen before anything is made.

Clips stand in the order of a hash of their ids, so a shard is a fair sample of the set and the
order does not depend on how the source lists them. What can only be read together stays together:
the rows of a Parquet row group, and the stretches of one file, take their place by a hash of the
group or file. Shard k is row group k of `plan.parquet`: a worker reads its own rows and no others.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import InputError, IntegrityError, RecipeMismatch
from configs.schema import ShardsConfig
from shards.atomic import Attempt, sha256_file, write_whole
from shards.commit import REPAIR, StageLog, canonical_json, differences, fingerprint
from shards.index import NAME, STAGE
from shards.layout import Layout

FORMAT = 2
Task = Literal["multilabel", "multiclass", "regression"]

WRITE_BUFFER_BYTES = 1 << 20  # Arrow writes a few bytes a call

Units = npt.NDArray[np.int64]

CLIP_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # of the file, relative to the root
        pa.field("member", pa.string()),  # of a tar file: name, and where its bytes are
        pa.field("offset", pa.int64()),
        pa.field("num_bytes", pa.int64()),
        pa.field("row_group", pa.int32()),  # of a Parquet file, and the row in it
        pa.field("row", pa.int32()),
        pa.field("start_s", pa.float64()),  # the clip's stretch of its file; null: all of it
        pa.field("end_s", pa.float64()),
        pa.field("labels", pa.list_(pa.int16()), nullable=False),  # indices into the classes
        pa.field("targets", pa.list_(pa.float32()), nullable=False),  # numbers, for regression
        pa.field("set", pa.string(), nullable=False),  # the source set, as `balanced`
        pa.field("split", pa.string(), nullable=False),  # what the source declares
        pa.field("fold", pa.int8(), nullable=False),  # 0: the source has no folds
        pa.field("group", pa.string()),  # what no split may tear apart, as a song
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
    """What a source offers: clips (CLIP_SCHEMA), classes (for regression: the names of the
    targets), the kind of task they make, and how many listed clips were left out, and why."""

    clips: pa.Table
    classes: tuple[ClassName, ...]
    task: Task
    left_out: Mapping[str, int] = field(default_factory=dict)


def clip_table(num_rows: int, columns: Mapping[str, Any]) -> pa.Table:
    """A CLIP_SCHEMA table from some of its columns; the others hold their usual nothing."""
    if not num_rows:
        return CLIP_SCHEMA.empty_table()
    usual = {"labels": [], "targets": [], "set": "", "split": "train", "fold": 0}
    arrays = []
    for entry in CLIP_SCHEMA:
        if entry.name in columns:
            column = columns[entry.name]
            arrays.append(
                column
                if isinstance(column, pa.ChunkedArray | pa.Array)
                else pa.array(column, entry.type)
            )
        elif entry.name in usual:
            arrays.append(pa.repeat(pa.scalar(usual[entry.name], entry.type), num_rows))
        else:
            arrays.append(pa.nulls(num_rows, entry.type))
    return pa.table(arrays, schema=CLIP_SCHEMA)


@dataclass(frozen=True)
class Plan:
    """A frozen plan: its size, classes and fingerprint; rows are read by shard."""

    table_path: Path
    num_clips: int
    num_shards: int
    task: Task
    classes: tuple[ClassName, ...]
    fingerprint: str
    table_sha256: str

    def rows(self, shard: int) -> pa.Table:
        """The clips of one shard, CLIP_SCHEMA, in plan order."""
        return pq.ParquetFile(self.table_path).read_row_group(shard)

    def column(self, name: str) -> pa.ChunkedArray:
        return self.table([name]).column(name)

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all clips."""
        return pq.read_table(self.table_path, columns=list(columns))


def freeze(
    layout: Layout,
    catalogue: Catalogue,
    recipe: Mapping[str, Any],
    shards: ShardsConfig,
    must_be: str | None = None,
) -> Plan:
    """Write the plan of a run.

    `must_be` is the fingerprint of one that was lost after shards of it were committed: raises
    IntegrityError, and writes nothing, where the source gives another now.
    """
    table, units = in_hash_order(catalogue.clips)
    bounds = shard_bounds(units, clips_per_shard(table.num_rows, shards))
    with Attempt(layout.partial, "plan") as attempt:
        with (
            attempt.path("table").open("wb", buffering=WRITE_BUFFER_BYTES) as file,
            pq.ParquetWriter(file, CLIP_SCHEMA, compression="zstd") as writer,
        ):
            for start, stop in pairwise(bounds):
                writer.write_table(table.slice(start, stop - start))
        tree = _describe(catalogue, recipe, len(bounds) - 1, sha256_file(attempt.path("table")))
        if must_be not in (None, fingerprint(tree)):
            raise IntegrityError(
                f"{layout.root}: the plan of the committed shards is lost, and the source gives "
                f"another now: put the source back as it was, or the plan from {layout.damaged}"
            )
        attempt.publish("table", layout.plan_table)
    write_whole(layout.partial, layout.plan_json, canonical_json(tree))
    return load(layout)


def load(layout: Layout) -> Plan:
    """The run's frozen plan. Call only where `layout.plan_json` exists."""
    tree = _read_json(layout)
    try:
        return Plan(
            table_path=layout.plan_table,
            num_clips=tree["clips"],
            num_shards=tree["shards"],
            task=tree["task"],
            classes=tuple(ClassName(**name) for name in tree["classes"]),
            fingerprint=fingerprint(tree),
            table_sha256=tree["table_sha256"],
        )
    except (KeyError, TypeError):
        raise IntegrityError(f"{layout.plan_json} is no plan; {REPAIR}") from None


def load_bound(layout: Layout) -> Plan:
    """The plan that the run's shards were made from; raises IntegrityError where plan.json, or
    the table that it names, is another. (A lost recipe is the stage's own to find.)"""
    plan = load(layout)
    recipe = StageLog(layout, STAGE, NAME).recipe()
    if recipe is not None and recipe.get("plan") != plan.fingerprint:
        raise IntegrityError(f"{layout.plan_json} is not the plan of the shards; {REPAIR}")
    if not layout.plan_table.exists() or sha256_file(layout.plan_table) != plan.table_sha256:
        raise IntegrityError(f"{layout.plan_table} is not the table of the plan; {REPAIR}")
    return plan


def check_recipe(layout: Layout, recipe: Mapping[str, Any]) -> None:
    """Raises RecipeMismatch where the frozen plan was made from another source or sharding."""
    stored = stored_recipe(layout)
    asked = json.loads(canonical_json(recipe))
    if stored != asked:
        cure = "Ask for the old settings again, or give another run=DIR for the new ones."
        raise RecipeMismatch(f"{layout.root}: the plan", differences(stored, asked), cure)


def stored_recipe(layout: Layout) -> dict[str, Any]:
    """What the frozen plan was made from."""
    recipe: dict[str, Any] = _read_json(layout)["recipe"]
    return recipe


def _read_json(layout: Layout) -> dict[str, Any]:
    data = layout.plan_json.read_bytes()
    try:
        tree: dict[str, Any] = json.loads(data)
    except ValueError:
        tree = {}
    if canonical_json(tree) != data:
        raise IntegrityError(f"{layout.plan_json} is damaged; {REPAIR}")
    return tree


def clips_per_shard(num_clips: int, config: ShardsConfig) -> int:
    """The configured number, or fewer where the set would not fill `min_shards` shards."""
    return max(1, min(config.clips_per_shard, num_clips // config.min_shards))


def in_hash_order(clips: pa.Table) -> tuple[pa.Table, Units]:
    """The clips sorted by a hash of their unit (their id; or the row group or file that they are
    read with), and the number of each one's unit: rising, with the rows of a unit together.

    Raises InputError for an id listed twice.
    """
    ids = clips.column("id").to_pylist()
    if not ids:
        raise InputError("the source lists no clips")
    if "" in ids:
        raise InputError("the source lists a clip without an id")
    _refuse_doubles(clips)
    id_hashes = _hashes(ids)
    keys = _unit_keys(clips, ids)
    if keys is None:
        order = np.argsort(id_hashes, kind="stable")
        units = np.arange(len(order))
    else:
        hashes = _hashes(keys)
        inside = pc.coalesce(clips.column("row").cast(pa.float64()), clips.column("start_s"), 0.0)
        order = np.lexsort((id_hashes, inside.to_numpy(), hashes))
        units = np.cumsum(np.diff(hashes[order], prepend=hashes[order[0]]) != 0)
    return clips.take(pa.array(order)).combine_chunks(), units


def shard_bounds(units: Units, per_shard: int) -> list[int]:
    """Where shards begin, and the end: at most `per_shard` clips each, and no unit torn apart
    unless it is larger than a shard itself."""
    bounds, starts = [0], np.flatnonzero(np.diff(units, prepend=-1)).tolist()
    for start, stop in pairwise([*starts, len(units)]):
        if stop - bounds[-1] > per_shard and start > bounds[-1]:
            bounds.append(start)
        while stop - bounds[-1] > per_shard:
            bounds.append(bounds[-1] + per_shard)
    return [*bounds, len(units)]


def _hashes(keys: Sequence[str]) -> npt.NDArray[np.uint64]:
    digests = b"".join([hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys])
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def _unit_keys(clips: pa.Table, ids: Sequence[str]) -> list[str] | None:
    """What each clip has to be read with; None where every clip is a file of its own."""
    if clips.column("row_group").null_count + clips.column("start_s").null_count == 2 * len(ids):
        return None
    names = ("path", "row_group", "start_s", "member")
    rows = zip(ids, *(clips.column(name).to_pylist() for name in names), strict=True)
    return [_unit_key(*row) for row in rows]


def _unit_key(
    clip_id: str, path: str, row_group: int | None, start_s: float | None, member: str | None
) -> str:
    if row_group is not None:
        return f"{path}#{row_group}"
    if start_s is None:
        return clip_id
    return path if member is None else f"{path}#{member}"


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
    catalogue: Catalogue, recipe: Mapping[str, Any], num_shards: int, table_sha256: str
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "clips": catalogue.clips.num_rows,
        "shards": num_shards,
        "left_out": dict(catalogue.left_out),
        "sets": dict(sorted(Counter(catalogue.clips.column("set").to_pylist()).items())),
        "task": catalogue.task,
        "classes": [vars(name) for name in catalogue.classes],
        "recipe": dict(recipe),
        "table_sha256": table_sha256,
    }
