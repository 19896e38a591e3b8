"""The shard stage: every clip of the plan decoded once, shard by shard, and the set sealed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import soundfile

from cluster.launch import OpenClient
from configs.console import say
from configs.errors import InputError
from configs.schema import Config
from pipeline.audio.decode import RESAMPLER
from pipeline.audio.frames import check_filters
from pipeline.audio.sandbox import own_sandbox
from pipeline.driver import run_shards
from pipeline.planning import frozen_plan
from pipeline.reading import ClipReader
from pipeline.shard_task import ShardTask, make_shard
from pipeline.storage import require
from shards.commit import CommitRecord, FileRecord, StageLog, publish_bytes
from shards.frames import write_group
from shards.index import NAME, STAGE
from shards.layout import Layout
from shards.plan import Plan
from shards.seal import write_seal
from shards.statistics import Moments

FORMAT = 2
ENOUGH_MISSING = 1000  # clips, to say that none is there
LIBRARIES = ("av", "soxr", "scipy", "zarr", "numcodecs", "pyarrow")  # that decide bytes


def run(config: Config, layout: Layout, client: OpenClient) -> None:
    """Make and seal all shards of the run's plan."""
    check_filters(config.audio.sample_rate_hz, config.frames)
    log = StageLog(layout, STAGE, NAME)
    plan = frozen_plan(config, layout, is_bound=bool(log.committed()))
    fingerprint = log.open(recipe(config, plan))
    group = write_group(layout, _group_attributes(config))
    if len(log.committed()) < plan.num_shards:
        require(config.source.root)
    if not log.committed():
        _require_a_clip(config, plan)
    tasks = [task_of(config, layout, shard, fingerprint) for shard in range(plan.num_shards)]
    records = run_shards(client, log, make_shard, tasks, fingerprint)
    write_seal(log, records, {"group": group, "statistics": _write_statistics(layout, records)})
    say(summary(records))


def _require_a_clip(config: Config, plan: Plan) -> None:
    """Raises InputError where not one clip of the first shards is there: a disk that is not
    mounted, or a wrong path, must not become a set of missing clips."""
    missing: list[str] = []
    with ClipReader(config.source.root, own_sandbox().buffer) as reader:
        for shard in range(plan.num_shards):
            for row in plan.rows(shard).to_pylist():
                if reader.has(row):
                    return
                missing.append(row["path"])
            if len(missing) >= ENOUGH_MISSING:
                break
    raise InputError(
        f"source.root: {config.source.root} holds none of the first {len(missing)} clips, as "
        f"{missing[0]}: is the disk mounted, and is the path (source.root, files) right?"
    )


def _group_attributes(config: Config) -> dict[str, Any]:
    return {
        "frames": config.frames.model_dump(mode="json"),
        "audio": config.audio.model_dump(mode="json"),
    }


def _write_statistics(layout: Layout, records: Sequence[CommitRecord]) -> FileRecord:
    """Mean, std, min and max of each column over all frames, for people and for training."""
    moments = Moments.merged(Moments.from_json(record.detail["moments"]) for record in records)
    data = json.dumps(moments.summary(), indent=1).encode() + b"\n"
    path = layout.statistics(hashlib.sha256(data).hexdigest())
    return publish_bytes(layout.partial, layout.root, path, data)


def task_of(config: Config, layout: Layout, shard: int, fingerprint: str) -> ShardTask:
    return ShardTask(
        root=layout.root,
        shard=shard,
        fingerprint=fingerprint,
        source_root=config.source.root,
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
        "libraries": {
            "libsndfile": soundfile.__libsndfile_version__,
            **{name: version(name) for name in LIBRARIES},
        },
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
