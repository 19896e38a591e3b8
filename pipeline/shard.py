"""The shard stage: every clip of the plan decoded once, shard by shard, and the set sealed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from cluster.launch import OpenClient
from cluster.rules import Bisection
from configs.console import say
from configs.errors import InputError
from configs.schema import Config
from pipeline.audio.decode import RESAMPLER
from pipeline.audio.frames import check_filters
from pipeline.audio.sandbox import own_sandbox
from pipeline.planning import frozen_plan, say_splits
from pipeline.reading import ClipReader
from pipeline.shard_task import (
    Row,
    ShardTask,
    clip_ids,
    make_shard,
    try_clips,
    without_clips,
)
from pipeline.stage import Stage, run_shards
from pipeline.stamp import Sight, library_versions
from pipeline.storage import absolute, require, sight
from shards.commit import CommitRecord, FileRecord, StageLog, publish_bytes
from shards.frames import write_group
from shards.index import NAME, STAGE, decoded, read_shard_index
from shards.layout import Layout
from shards.plan import Plan
from shards.seal import find_seal, write_seal
from shards.splits import SPLIT_COLUMNS
from shards.statistics import Moments

FORMAT = 2
ENOUGH_MISSING, FEW = 1000, 100  # clips, to say that none is there


def run(config: Config, layout: Layout, client: OpenClient) -> None:
    """Make and seal all shards of the run's plan."""
    check_filters(config.audio.sample_rate_hz, config.frames)
    log = StageLog(layout, STAGE, NAME)
    plan = frozen_plan(config, log)
    fingerprint = log.open(_recipe_of_what_is_missing(log, config, plan))
    group = write_group(layout, _group_attributes(config))
    done = log.committed()
    witness: Row = {}
    if len(done) < plan.num_shards:
        say_splits(config.split, plan.table(SPLIT_COLUMNS), plan.classes)
        witness = _witness(config, plan, log)
    tasks = [
        task_of(config, layout, shard, fingerprint, witness) for shard in range(plan.num_shards)
    ]
    seen: Sight = partial(sight, absolute(config.source.root), witness["path"]) if witness else dict
    bisection = Bisection(clip_ids, try_clips, without_clips)
    stage = Stage(log, fingerprint, make_shard, bisection, seen)
    records = run_shards(stage, tasks, config.cluster, client)
    before = find_seal(layout, STAGE, NAME)
    shared = {"group": group, "statistics": _write_statistics(layout, records)}
    if before not in (None, write_seal(log, records, shared)):
        say(
            f"warning: these are other shards than the ones sealed before ({before.name}): the "
            "source changed; codebooks, tokens and models of those no longer fit"
        )
    say(summary(records))
    _say_narrow(records, config.audio.sample_rate_hz)


def _recipe_of_what_is_missing(log: StageLog, config: Config, plan: Plan) -> dict[str, Any]:
    """The recipe; of a finished set, with the libraries that it was made with: newer ones do not
    make it another."""
    asked, stored = recipe(config, plan), log.recipe()
    if stored is not None and len(log.committed()) == plan.num_shards:
        asked["libraries"] = stored.get("libraries")
    return asked


def _witness(config: Config, plan: Plan, log: StageLog) -> Row:
    """The plan row of a clip that is there. Raises InputError where none of the first that are
    looked for is: a disk that is not mounted, or a wrong path, must not become missing clips."""
    require(config.source.root)
    asked = 0
    with ClipReader(config.source.root, own_sandbox().buffer) as reader:
        for row in _likely_clips(plan, log):
            if reader.has(row):
                return row
            asked += 1
    first = plan.rows(0).slice(0, 1).to_pylist()[0]["path"]
    raise InputError(
        f"source.root: {config.source.root} holds none of {asked} clips that were looked for, as "
        f"{first}: is the disk mounted, and is the path (source.root, files) right?"
    )


def _likely_clips(plan: Plan, log: StageLog) -> Iterator[Row]:
    """Some clips that were decoded before, then the first that are to be decoded now."""
    done = log.committed()
    yield from islice((row for shard in sorted(done) for row in _decoded(plan, log, shard)), FEW)
    waiting = (shard for shard in range(plan.num_shards) if shard not in done)
    rows = (row for shard in waiting for row in plan.rows(shard).to_pylist())
    yield from islice(rows, ENOUGH_MISSING)


def _decoded(plan: Plan, log: StageLog, shard: int) -> Iterator[Row]:
    """The plan rows of a committed shard's clips that were not refused."""
    record = log.record(shard)
    if record is not None and record.counts["ok"]:
        table = decoded(read_shard_index(log.layout, record, ["id", "status"]))
        known = set(table.column("id").to_pylist())
        yield from (row for row in plan.rows(shard).to_pylist() if row["id"] in known)


def _group_attributes(config: Config) -> dict[str, Any]:
    return {
        "frames": config.frames.model_dump(mode="json"),
        "audio": config.audio.model_dump(mode="json"),
    }


def _say_narrow(records: Sequence[CommitRecord], sample_rate_hz: int) -> None:
    """Where most clips hold nothing in the upper bands: the rate is too high for them."""
    num_narrow = sum(record.detail.get("narrow", 0) for record in records)
    num_ok = sum(record.counts["ok"] for record in records)
    if 2 * num_narrow > num_ok:
        say(
            f"warning: {num_narrow} of {num_ok} clips were recorded at less than "
            f"audio.sample_rate_hz={sample_rate_hz}, so their upper bands hold nothing: set it to "
            "what they have, in another run=DIR, or mix no clips of different rates"
        )


def _write_statistics(layout: Layout, records: Sequence[CommitRecord]) -> FileRecord:
    """Mean, std, min and max of each column over all frames, for people and for training."""
    moments = Moments.merged(Moments.from_json(record.detail["moments"]) for record in records)
    data = json.dumps(moments.summary(), indent=1).encode() + b"\n"
    path = layout.statistics(hashlib.sha256(data).hexdigest())
    return publish_bytes(layout.partial, layout.root, path, data)


def task_of(
    config: Config, layout: Layout, shard: int, fingerprint: str, witness: Row
) -> ShardTask:
    return ShardTask(
        root=layout.root.absolute(),  # a worker may stand in another directory
        shard=shard,
        fingerprint=fingerprint,
        source_root=absolute(config.source.root),
        witness=witness,
        max_clip_s=config.source.max_clip_s,
        audio=config.audio,
        frames=config.frames,
    )


def recipe(config: Config, plan: Plan) -> dict[str, Any]:
    """Everything that decides the bytes of a shard."""
    return {
        "format": FORMAT,
        "plan": plan.fingerprint,
        "audio": config.audio.model_dump(mode="json"),
        "frames": config.frames.model_dump(mode="json"),
        "resampler": RESAMPLER,
        "libraries": library_versions(),
    }


def summary(records: list[CommitRecord]) -> str:
    """One line: every clip of the plan is accounted for, decoded or in quarantine."""
    total = Counter[str]()
    reasons = Counter[str]()
    for record in records:
        total.update(record.counts)
        reasons.update(record.detail["reasons"])
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return (
        f"{total['clips']} clips = {total['ok']} decoded + {total['quarantined']} quarantined"
        f"{f' ({listed})' if listed else ''}, {total['frames']} frames"
    )
