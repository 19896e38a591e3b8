"""One shard: its clips decoded once, into an audio tar, log-mel frames and an index.

A pure function of the shard's plan rows and the recipe. A clip that cannot be used becomes a
quarantine row with a reason; nothing that a clip contains ends the task. Runs on workers.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import LostSight
from configs.frames import FramesConfig
from configs.schema import AudioConfig
from pipeline.audio.clip import Clip
from pipeline.audio.limits import Window
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sandbox import Sandbox, own_sandbox
from pipeline.reading import PATH_REASONS, ClipReader, Found
from shards import plan as plans
from shards.atomic import Attempt
from shards.commit import (
    CommitRecord,
    FileRecord,
    StageLog,
    Written,
    ids_sha256,
    publish_bytes,
)
from shards.frames import FramesTM, encode_frames
from shards.index import NAME, OK, QUARANTINED, STAGE, write_index
from shards.keys import key_of
from shards.layout import Layout
from shards.statistics import Moments
from shards.tar import TarWriter

NARROW = 0.9  # of the rate that clips are brought to
COPIED = ("id", "labels", "targets", "set", "split", "fold", "group")  # from the plan

Row = dict[str, Any]


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to make one shard."""

    root: Path
    shard: int
    fingerprint: str
    source_root: str
    witness: Row  # the plan row of a clip that is there, while the source is
    max_clip_s: float
    audio: AudioConfig
    frames: FramesConfig
    fatal: tuple[str, ...] = ()  # ids of clips that kill the worker which reads them

    @property
    def title(self) -> str:
        return f"{STAGE} {self.shard:06d}"


def make_shard(task: ShardTask) -> CommitRecord:
    """Make and commit one shard, or return its record if it is committed."""
    layout = Layout(task.root)
    log = StageLog(layout, STAGE, NAME)
    existing = log.made(task.shard, task.fingerprint)
    if existing is not None:
        return existing
    plan_rows = plans.load(layout).rows(task.shard).to_pylist()
    with Attempt(layout.partial, f"{STAGE}-{task.shard:06d}") as attempt:
        rows, frames_TM = _decode_clips(task, plan_rows, attempt)
        write_index(attempt.path("index.parquet"), rows)
        files = _publish(task, layout, attempt, frames_TM)
    return log.commit(_record(task, rows, files, Moments.of(frames_TM)))


def clip_ids(task: ShardTask) -> list[str]:
    """The clips of a shard: what it can be halved into."""
    ids: list[str] = plans.load(Layout(task.root)).rows(task.shard).column("id").to_pylist()
    return ids


def try_clips(task_and_ids: tuple[ShardTask, Sequence[str]]) -> None:
    """Read and decode some clips of a shard, and keep nothing."""
    task, ids = task_and_ids
    wanted, sandbox = set(ids), own_sandbox()
    with ClipReader(task.source_root, sandbox.buffer) as reader:
        for row in plans.load(Layout(task.root)).rows(task.shard).to_pylist():
            if row["id"] in wanted:
                _decode(task, row, reader, sandbox)


def without_clips(task: ShardTask, ids: Sequence[str]) -> ShardTask:
    """The shard with these clips in quarantine, unread."""
    return replace(task, fatal=(*task.fatal, *ids))


def _decode_clips(
    task: ShardTask, plan_rows: list[Row], attempt: Attempt
) -> tuple[list[Row], FramesTM]:
    """Index rows and frames of all clips; their audio goes into the attempt's tar."""
    rows: list[Row] = []
    frames: list[FramesTM] = [np.empty((0, task.frames.num_bins), dtype=np.float16)]
    num_frames = 0
    sandbox = own_sandbox()
    with (
        ClipReader(task.source_root, sandbox.buffer) as reader,
        TarWriter(attempt.path("audio.tar")) as tar,
    ):
        for plan_row in plan_rows:
            try:
                row, decoded = _decode(task, plan_row, reader, sandbox)
                if decoded is not None:
                    row["row_start"] = num_frames
                    num_frames += row["num_frames"]
                    frames.append(decoded.clip.frames_TM)
                    _store_audio(task, plan_row, decoded, tar)
            except Exception as error:
                error.add_note(f"clip {plan_row['id']}")
                raise
            rows.append(row)
        if any(row["reason"] in PATH_REASONS for row in rows if row["status"] == QUARANTINED):
            _require_the_source(task, reader)
    return rows, np.concatenate(frames)


def _require_the_source(task: ShardTask, reader: ClipReader) -> None:
    """Raises LostSight where even a clip that was there cannot be read now: a disk that went away
    must not become clips in quarantine."""
    if not reader.has(task.witness):
        raise LostSight(
            f"source.root: {task.witness['path']} of {task.source_root} can no longer be read: is "
            "the disk still mounted? Run the same command again when it is back"
        )


@dataclass(frozen=True)
class _Decoded:
    clip: Clip
    source: memoryview  # the file's bytes, until the next clip is read


def _decode(
    task: ShardTask, plan_row: Mapping[str, Any], reader: ClipReader, sandbox: Sandbox
) -> tuple[Row, _Decoded | None]:
    """A clip's index row (all but `row_start`), and what it decoded to; None if refused."""
    row = {name: plan_row[name] for name in COPIED}
    row |= {"key": key_of(plan_row["id"]), "num_frames": 0, "source": _source_name(plan_row)}
    window = Window(plan_row["start_s"] or 0.0, plan_row["end_s"], task.max_clip_s)
    try:
        if plan_row["id"] in task.fatal:
            raise ClipRefused("kills_worker", "the worker that read it was killed, alone and again")
        found = reader.read(plan_row)
        row["source_sha256"] = found.sha256
        clip = sandbox.clip(found.given, window, task.audio, task.frames)
    except ClipRefused as refusal:
        row |= {"status": QUARANTINED, "reason": refusal.reason, "detail": refusal.detail}
        return row, None
    facts = asdict(clip.facts)
    del facts["num_samples"]
    row |= {"status": OK, "num_frames": len(clip.frames_TM), **facts}
    return row, _Decoded(clip, _source_bytes(found, sandbox))


def _source_name(plan_row: Mapping[str, Any]) -> str:
    member = plan_row["member"]
    return str(plan_row["path"]) + (f"#{member}" if member is not None else "")


def _source_bytes(found: Found, sandbox: Sandbox) -> memoryview:
    return sandbox.buffer[: found.given.num_bytes]


def _store_audio(
    task: ShardTask, plan_row: Mapping[str, Any], decoded: _Decoded, tar: TarWriter
) -> None:
    """The clip as FLAC, or its file as it is. (A window's file is another clip's, too: `store:
    source` with windows is refused at the start.)"""
    key, facts = key_of(plan_row["id"]), decoded.clip.facts
    if task.audio.store == "flac":
        tar.add(f"{key}.flac", decoded.clip.flac)
    elif task.audio.store == "source":
        tar.add(f"{key}.{facts.container}", bytes(decoded.source))
    else:
        return
    fields = {name: plan_row[name] for name in COPIED}
    fields |= {"sample_rate_hz": task.audio.sample_rate_hz, "num_samples": facts.num_samples}
    tar.add(f"{key}.json", json.dumps(fields, sort_keys=True).encode())


def _publish(
    task: ShardTask, layout: Layout, attempt: Attempt, frames_TM: FramesTM
) -> tuple[FileRecord, ...]:
    """Move the shard's files to their final, hash-bearing names; returns their records."""
    files = []
    if task.audio.store != "none":
        tar = Written.of(attempt, "audio.tar")
        files.append(tar.publish(layout.root, layout.audio_tar(task.shard, tar.sha256)))
    index = Written.of(attempt, "index.parquet")
    files.append(index.publish(layout.root, layout.index_part(task.shard, index.sha256)))
    objects = encode_frames(frames_TM)
    sha256 = hashlib.sha256(b"".join(objects.values())).hexdigest()
    array = layout.frames_array(task.shard, sha256)
    for name, data in objects.items():
        files.append(publish_bytes(layout.partial, layout.root, array / name, data))
    return tuple(files)


def _record(
    task: ShardTask, rows: list[Row], files: tuple[FileRecord, ...], moments: Moments
) -> CommitRecord:
    reasons = Counter(row["reason"] for row in rows if row["status"] == QUARANTINED)
    counts = {
        "clips": len(rows),
        "ok": len(rows) - reasons.total(),
        "quarantined": reasons.total(),
        "frames": sum(row["num_frames"] for row in rows),
    }
    narrow = sum(_is_narrow(row, task.audio.sample_rate_hz) for row in rows)
    return CommitRecord(
        stage=STAGE,
        name=NAME,
        shard=task.shard,
        fingerprint=task.fingerprint,
        counts=counts,
        ids_sha256=ids_sha256(row["id"] for row in rows),
        files=files,
        detail={"reasons": dict(sorted(reasons.items())), "moments": moments.to_json()}
        | ({"narrow": narrow} if narrow else {}),
    )


def _is_narrow(row: Row, sample_rate_hz: int) -> bool:
    """Whether a decoded clip was recorded at a rate so low that some bands hold nothing of it."""
    return bool(row["status"] == OK and row["source_rate_hz"] < NARROW * sample_rate_hz)
