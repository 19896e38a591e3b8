"""The shard stage: decode every clip once into an audio tar, log-mel frames and an index.

One task makes one shard, a pure function of its plan rows and the recipe. A clip that cannot be
used becomes a quarantine row with a reason; nothing that a clip contains ends the task.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from cluster.launch import OpenClient
from configs.console import say
from configs.schema import AudioConfig, Config, MelConfig
from pipeline.audio.decode import DECODER, RESAMPLER, ClipRefused, Decoded, decode
from pipeline.audio.encode import flac_bytes
from pipeline.audio.mel import log_mel
from pipeline.driver import run_shards
from pipeline.sources import read_source, require_root
from shards import plan as plans
from shards.atomic import Attempt
from shards.commit import CommitRecord, FileRecord, StageLog, ids_sha256, publish
from shards.frames import FramesTM, encode_frames, open_group
from shards.index import OK, QUARANTINED, write_index
from shards.keys import key_of
from shards.layout import Layout
from shards.plan import Plan
from shards.seal import write_seal
from shards.tar import TarWriter

STAGE = "shard"
NAME = "default"
FORMAT = 1
# What a path itself can be to blame for; any other error, as EIO, fails the task.
REFUSED_ERRNOS = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EISDIR: "missing",
    errno.EACCES: "unreadable",
    errno.ENAMETOOLONG: "missing",
    errno.ELOOP: "missing",
}


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to make one shard."""

    root: Path
    shard: int
    fingerprint: str
    source_root: Path
    audio: AudioConfig
    mel: MelConfig

    @property
    def label(self) -> str:
        return f"{STAGE} {self.shard:06d}"


@dataclass(frozen=True)
class Clip:
    """A clip that decoded, and what is stored of it."""

    frames_TM: FramesTM
    audio: bytes
    audio_suffix: str
    decoded: Decoded


def run(config: Config, layout: Layout, client: OpenClient) -> None:
    """Make and seal all shards of the run's plan."""
    plan = frozen_plan(config, layout)
    log = StageLog(layout, STAGE, NAME)
    fingerprint = log.open(recipe(config, plan))
    open_group(layout, {"mel": config.mel.model_dump(), "audio": config.audio.model_dump()})
    if len(log.committed()) < plan.num_shards:
        require_root(config.source)
    tasks = [
        ShardTask(layout.root, shard, fingerprint, config.source.root, config.audio, config.mel)
        for shard in range(plan.num_shards)
    ]
    records = run_shards(client, log, make_shard, tasks)
    write_seal(log, records)
    say(summary(records))


def frozen_plan(config: Config, layout: Layout) -> Plan:
    """The run's plan, made from the source the first time."""
    asked = {
        "source": config.source.model_dump(mode="json", exclude={"root"}),
        "shards": config.shards.model_dump(mode="json"),
    }
    if layout.plan_json.exists() and StageLog(layout, STAGE, NAME).committed():
        plans.check_recipe(layout, asked)
        return plans.load(layout)
    return plans.freeze(layout, read_source(config.source), asked, config.shards)


def recipe(config: Config, plan: Plan) -> dict[str, Any]:
    """Everything that decides the bytes of a shard."""
    return {
        "format": FORMAT,
        "plan": plan.fingerprint,
        "audio": config.audio.model_dump(mode="json"),
        "mel": config.mel.model_dump(mode="json"),
        "resampler": RESAMPLER,
        "libraries": {
            "libsndfile": soundfile.__libsndfile_version__,
            **{name: version(name) for name in ("soxr", "scipy", "zarr", "numcodecs", "pyarrow")},
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
    with Attempt(layout.partial, f"{STAGE}-{task.shard:06d}") as attempt:
        with TarWriter(attempt.path("audio.tar")) as tar:
            for plan_row in plan_rows:
                rows.append(_make_clip(task, plan_row, tar, frames))
        write_index(attempt.path("index.parquet"), rows)
        files = _publish(task, layout, attempt, frames)
    return log.commit(_record(task, rows, files))


def _make_clip(
    task: ShardTask, plan_row: Mapping[str, Any], tar: TarWriter, frames: list[FramesTM]
) -> dict[str, Any]:
    """Store one clip in the tar and the frames; returns its index row, decoded or refused."""
    key = key_of(plan_row["id"])
    row = {name: plan_row[name] for name in ("id", "labels", "set", "split", "fold")}
    row |= {"key": key, "source": plan_row["path"], "num_frames": 0}
    try:
        clip = read_clip(task.source_root, plan_row["path"], task.audio, task.mel)
    except ClipRefused as refusal:
        return row | {
            "status": QUARANTINED,
            "reason": refusal.reason,
            "detail": refusal.detail,
        }
    row_start = sum(len(part) for part in frames)
    frames.append(clip.frames_TM)
    if clip.audio_suffix:
        tar.add(f"{key}.{clip.audio_suffix}", clip.audio)
        tar.add(f"{key}.json", _metadata(plan_row, clip, task.audio.sample_rate_hz))
    return row | {
        "status": OK,
        "row_start": row_start,
        "num_frames": len(clip.frames_TM),
        "decoder": DECODER,
        "source_rate_hz": clip.decoded.source_rate_hz,
        "source_samples": clip.decoded.source_samples,
    }


def read_clip(root: Path, path: str, audio: AudioConfig, mel: MelConfig) -> Clip:
    """Decode one file below `root` into frames [T, M] float16 and what the audio tar holds.

    Raises ClipRefused, with the reason `missing` where there is no such file. Refusals name the
    path below the root only: a moved data set gives the same bytes.
    """
    try:
        data = (root / path).read_bytes()
    except OSError as error:
        if error.errno not in REFUSED_ERRNOS:
            raise
        raise ClipRefused(REFUSED_ERRNOS[error.errno], f"{path}: {error.strerror}") from None
    decoded = decode(data, audio)
    frames_TM = log_mel(decoded.waveform_N, audio.sample_rate_hz, mel).astype(np.float16)
    if audio.store == "flac":
        return Clip(
            frames_TM, flac_bytes(decoded.waveform_N, audio.sample_rate_hz), "flac", decoded
        )
    if audio.store == "source":
        return Clip(frames_TM, data, Path(path).suffix.lstrip(".").lower() or "bin", decoded)
    return Clip(frames_TM, b"", "", decoded)


def _metadata(plan_row: Mapping[str, Any], clip: Clip, sample_rate_hz: int) -> bytes:
    """The JSON member beside the audio: the same fields for every clip."""
    fields = {name: plan_row[name] for name in ("id", "labels", "set", "split", "fold")}
    fields |= {"sample_rate_hz": sample_rate_hz, "num_samples": len(clip.decoded.waveform_N)}
    return json.dumps(fields, sort_keys=True).encode()


def _publish(
    task: ShardTask, layout: Layout, attempt: Attempt, frames: list[FramesTM]
) -> tuple[FileRecord, ...]:
    """Move the shard's files to their final, hash-bearing names; returns their records."""
    places = {
        "audio.tar": partial(layout.audio_tar, task.shard),
        "index.parquet": partial(layout.index_part, task.shard),
    }
    if task.audio.store == "none":
        del places["audio.tar"]
    files = [publish(attempt, layout.root, name, place) for name, place in places.items()]
    objects = encode_frames(np.concatenate([_no_frames(task.mel), *frames]))
    sha256 = hashlib.sha256(b"".join(objects.values())).hexdigest()
    for number, (name, data) in enumerate(objects.items()):
        place = partial(_inside, layout.frames_array(task.shard, sha256), name)
        attempt.path(f"object-{number}").write_bytes(data)
        files.append(publish(attempt, layout.root, f"object-{number}", place))
    return tuple(files)


def _record(
    task: ShardTask, rows: list[dict[str, Any]], files: tuple[FileRecord, ...]
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
        detail={"reasons": dict(sorted(reasons.items()))},
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


def _no_frames(mel: MelConfig) -> FramesTM:
    return np.empty((0, mel.n_mels), dtype=np.float16)
