"""The shard stage: decode every clip once into an audio tar, log-mel frames and an index.

One task makes one shard, a pure function of its plan rows and the recipe. A clip that cannot be
used becomes a quarantine row with a reason; nothing that a clip contains ends the task.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from cluster.launch import OpenClient
from configs.console import say
from configs.errors import InputError
from configs.frames import FramesConfig
from configs.schema import AudioConfig, Config
from pipeline.audio.clip import Clip
from pipeline.audio.decode import RESAMPLER
from pipeline.audio.frames import check_filters
from pipeline.audio.limits import Window
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sandbox import Sandbox, own_sandbox
from pipeline.driver import run_shards
from pipeline.planning import frozen_plan
from pipeline.reading import ClipReader, Found
from pipeline.storage import require
from shards import plan as plans
from shards.atomic import Attempt
from shards.commit import CommitRecord, FileRecord, StageLog, ids_sha256, publish, publish_bytes
from shards.frames import FramesTM, encode_frames, write_group
from shards.index import OK, QUARANTINED, write_index
from shards.keys import key_of
from shards.layout import Layout
from shards.plan import Plan
from shards.seal import write_seal
from shards.statistics import Moments
from shards.tar import TarWriter

STAGE = "shard"
NAME = "default"
FORMAT = 2
ENOUGH_MISSING = 1000  # clips, to say that none is there
LIBRARIES = ("av", "soxr", "scipy", "zarr", "numcodecs", "pyarrow")  # that decide bytes
COPIED = ("id", "labels", "targets", "set", "split", "fold", "group")  # from the plan


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to make one shard."""

    root: Path
    shard: int
    fingerprint: str
    source_root: str
    max_clip_s: float
    audio: AudioConfig
    frames: FramesConfig

    @property
    def label(self) -> str:
        return f"{STAGE} {self.shard:06d}"


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
    return publish_bytes(layout, layout.statistics(hashlib.sha256(data).hexdigest()), data)


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


def make_shard(task: ShardTask) -> CommitRecord:
    """Make and commit one shard, or return its record if it is committed. Runs on workers."""
    layout = Layout(task.root)
    log = StageLog(layout, STAGE, NAME)
    existing = log.record(task.shard)
    if existing is not None:
        return existing
    plan_rows = plans.load(layout).rows(task.shard).to_pylist()
    rows: list[dict[str, Any]] = []
    frames: list[FramesTM] = []
    sandbox = own_sandbox()
    with (
        Attempt(layout.partial, f"{STAGE}-{task.shard:06d}") as attempt,
        ClipReader(task.source_root, sandbox.buffer) as reader,
    ):
        with TarWriter(attempt.path("audio.tar")) as tar:
            for plan_row in plan_rows:
                try:
                    rows.append(_make_clip(task, plan_row, reader, sandbox, tar, frames))
                except Exception as error:
                    error.add_note(f"clip {plan_row['id']}")
                    raise
        write_index(attempt.path("index.parquet"), rows)
        all_frames_TM = np.concatenate([_no_frames(task.frames), *frames])
        files = _publish(task, layout, attempt, all_frames_TM)
    return log.commit(_record(task, rows, files, Moments.of(all_frames_TM)))


def _make_clip(
    task: ShardTask,
    plan_row: Mapping[str, Any],
    reader: ClipReader,
    sandbox: Sandbox,
    tar: TarWriter,
    frames: list[FramesTM],
) -> dict[str, Any]:
    """Store one clip in the tar and the frames; returns its index row, decoded or refused."""
    row = {name: plan_row[name] for name in COPIED}
    row |= {"key": key_of(plan_row["id"]), "num_frames": 0, "source": plan_row["path"]}
    if plan_row["member"] is not None:
        row["source"] += f"#{plan_row['member']}"
    window = Window(plan_row["start_s"] or 0.0, plan_row["end_s"], task.max_clip_s)
    try:
        found = reader.read(plan_row)
        row["source_sha256"] = found.sha256
        clip = sandbox.clip(found.given, window, task.audio, task.frames)
    except ClipRefused as refusal:
        return row | {
            "status": QUARANTINED,
            "reason": refusal.reason,
            "detail": refusal.detail,
        }
    if task.audio.store != "none":
        _store_audio(task, plan_row, clip, _source_bytes(task, found, sandbox), tar)
    row_start = sum(len(part) for part in frames)
    frames.append(clip.frames_TM)
    facts = asdict(clip.facts)
    del facts["num_samples"]
    return (
        row
        | facts
        | {
            "status": OK,
            "row_start": row_start,
            "num_frames": len(clip.frames_TM),
        }
    )


def _source_bytes(task: ShardTask, found: Found, sandbox: Sandbox) -> bytes:
    """The file itself, where the tars hold it. A window's is the whole file's: refused at start."""
    if task.audio.store != "source":
        return b""
    return bytes(sandbox.buffer[: found.given.num_bytes])


def _store_audio(
    task: ShardTask, plan_row: Mapping[str, Any], clip: Clip, source: bytes, tar: TarWriter
) -> None:
    key = key_of(plan_row["id"])
    suffix = "flac" if task.audio.store == "flac" else clip.facts.container
    tar.add(f"{key}.{suffix}", clip.flac if task.audio.store == "flac" else source)
    tar.add(f"{key}.json", _metadata(plan_row, clip, task.audio.sample_rate_hz))


def _metadata(plan_row: Mapping[str, Any], clip: Clip, sample_rate_hz: int) -> bytes:
    """The JSON member beside the audio: the same fields for every clip."""
    fields = {name: plan_row[name] for name in COPIED}
    fields |= {"sample_rate_hz": sample_rate_hz, "num_samples": clip.facts.num_samples}
    return json.dumps(fields, sort_keys=True).encode()


def _publish(
    task: ShardTask, layout: Layout, attempt: Attempt, frames_TM: FramesTM
) -> tuple[FileRecord, ...]:
    """Move the shard's files to their final, hash-bearing names; returns their records."""
    places = {
        "audio.tar": partial(layout.audio_tar, task.shard),
        "index.parquet": partial(layout.index_part, task.shard),
    }
    if task.audio.store == "none":
        del places["audio.tar"]
    files = [publish(attempt, layout.root, name, place) for name, place in places.items()]
    objects = encode_frames(frames_TM)
    sha256 = hashlib.sha256(b"".join(objects.values())).hexdigest()
    for number, (name, data) in enumerate(objects.items()):
        place = partial(_inside, layout.frames_array(task.shard, sha256), name)
        attempt.path(f"object-{number}").write_bytes(data)
        files.append(publish(attempt, layout.root, f"object-{number}", place))
    return tuple(files)


def _record(
    task: ShardTask, rows: list[dict[str, Any]], files: tuple[FileRecord, ...], moments: Moments
) -> CommitRecord:
    reasons = Counter(row["reason"] for row in rows if row["status"] == QUARANTINED)
    counts = {
        "clips": len(rows),
        "ok": len(rows) - reasons.total(),
        "quarantined": reasons.total(),
        "frames": sum(row["num_frames"] for row in rows),
    }
    return CommitRecord(
        stage=STAGE,
        name=NAME,
        shard=task.shard,
        fingerprint=task.fingerprint,
        counts=counts,
        ids_sha256=ids_sha256(row["id"] for row in rows),
        files=files,
        detail={"reasons": dict(sorted(reasons.items())), "moments": moments.to_json()},
    )


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


def _inside(directory: Path, name: str, _sha256: str) -> Path:
    return directory / name


def _no_frames(config: FramesConfig) -> FramesTM:
    return np.empty((0, config.num_bins), dtype=np.float16)
