"""Sealed `shard` stages of made clips: frames, audio tars and index, without decoding anything."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.atomic import Attempt
from shards.commit import CommitRecord, FileRecord, StageLog, Written, ids_sha256, publish_bytes
from shards.frames import CHUNK_ROWS, encode_frames
from shards.index import NAME, STAGE, write_index
from shards.layout import Layout
from shards.seal import write_seal
from shards.stream.frames import FrameChunk, FrameSource
from shards.tar import TarWriter

NUM_MELS = 4


@dataclass(frozen=True)
class Clip:
    """A decoded clip; without frames a refused one."""

    key: str
    frames_TM: npt.NDArray[np.float16] | None
    labels: Sequence[int] = ()
    audio: bytes = b""
    container: str = "wav"

    @property
    def num_frames(self) -> int:
        return 0 if self.frames_TM is None else len(self.frames_TM)

    def row(self, start: int) -> dict[str, Any]:
        """Of the index, as far as it has to be filled in."""
        named = {"id": f"{self.key}.wav", "key": self.key, "labels": self.labels, "targets": []}
        empty = {"set": "", "split": "train", "fold": 0, "source": "", "container": self.container}
        hashed = {"source_sha256": hashlib.sha256(self.audio).hexdigest()}
        is_ok = self.frames_TM is not None
        status = {"status": "ok" if is_ok else "quarantined", "row_start": start if is_ok else None}
        return {**named, **empty, **hashed, **status, "num_frames": self.num_frames}


@dataclass(frozen=True)
class Made:
    """A sealed run of made clips, and its decoded clips by row."""

    layout: Layout
    clips: Sequence[Clip]
    records: Sequence[CommitRecord] = field(repr=False)

    @property
    def num_chunks(self) -> int:
        return sum(-(-record.counts["frames"] // CHUNK_ROWS) for record in self.records)


def clips_of(
    seed: int, count: int, lengths: tuple[int, int] = (1, 3000), audio_bytes: int = 1200
) -> list[Clip]:
    """Every fifth is refused; of the others a third has no label, a third one, a third two."""
    random = np.random.default_rng(seed)
    return [
        Clip(
            f"clip{seed}-{number}" + "x" * (number % 4),
            None if number % 5 == 3 else noise(random, int(random.integers(*lengths))),
            list(range(number % 3)),
            random.bytes(int(random.integers(1, audio_bytes))),
            ("wav", "flac", "m4a")[number % 3],
        )
        for number in range(count)
    ]


def noise(random: np.random.Generator, num_frames: int) -> npt.NDArray[np.float16]:
    return random.normal(-40, 20, (num_frames, NUM_MELS)).astype(np.float16)


def made_run(root: Path, shards: Sequence[Sequence[Clip]], store: str = "flac") -> Made:
    """Commit and seal shards of these clips."""
    layout = Layout(root)
    log = StageLog(layout, STAGE, NAME)
    stamp = log.open({"audio": {"store": store}})
    records = [_commit(log, stamp, number, clips, store) for number, clips in enumerate(shards)]
    write_seal(log, records)
    decoded = [clip for clips in shards for clip in clips if clip.frames_TM is not None]
    return Made(layout, decoded, records)


def _commit(
    log: StageLog, stamp: str, shard: int, clips: Sequence[Clip], store: str
) -> CommitRecord:
    decoded = [clip for clip in clips if clip.frames_TM is not None]
    frames = np.concatenate([noise(np.random.default_rng(0), 0), *(c.frames_TM for c in decoded)])
    starts = np.cumsum([0, *(clip.num_frames for clip in clips)]).tolist()
    rows = [clip.row(start) for clip, start in zip(clips, starts, strict=False)]
    files = [_index(log.layout, shard, rows), *_frames(log.layout, shard, frames)]
    if store != "none":
        files.append(_tar(log.layout, shard, decoded, store))
    counts = {"clips": len(clips), "ok": len(decoded), "frames": len(frames)}
    counts["quarantined"] = len(clips) - len(decoded)
    ids = ids_sha256(row["id"] for row in rows)
    return log.commit(CommitRecord(STAGE, NAME, shard, stamp, counts, ids, tuple(files)))


def _index(layout: Layout, shard: int, rows: list[dict[str, Any]]) -> FileRecord:
    with Attempt(layout.partial, "made") as attempt:
        write_index(attempt.path("index"), rows)
        written = Written.of(attempt, "index")
        return written.publish(layout.root, layout.index_part(shard, written.sha256))


def _frames(layout: Layout, shard: int, frames_TM: npt.NDArray[np.float16]) -> list[FileRecord]:
    objects = encode_frames(frames_TM)
    array = layout.frames_array(shard, hashlib.sha256(b"".join(objects.values())).hexdigest())
    return [
        publish_bytes(layout.partial, layout.root, array / name, data)
        for name, data in objects.items()
    ]


def _tar(layout: Layout, shard: int, clips: Sequence[Clip], store: str) -> FileRecord:
    with Attempt(layout.partial, "made") as attempt:
        with TarWriter(attempt.path("audio")) as tar:
            for clip in clips:
                suffix = "flac" if store == "flac" else clip.container
                tar.add(f"{clip.key}.{suffix}", clip.audio)
                tar.add(f"{clip.key}.json", b"{}")
        written = Written.of(attempt, "audio")
        return written.publish(layout.root, layout.audio_tar(shard, written.sha256))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-512])


def source_of(made: Made, cache_bytes: int = 1 << 30, unit_chunks: int = 4) -> FrameSource:
    return FrameSource(made.layout, made.records, "f", cache_bytes, unit_chunks)


def assert_holds(chunk: FrameChunk, clips: list[Clip]) -> None:
    assert [key.decode() for key in chunk.keys_N.tolist()] == [clip.key for clip in clips]
    assert chunk.lengths_N.tolist() == [clip.num_frames for clip in clips]
    labels = [chunk.labels[a:b].tolist() for a, b in pairwise(chunk.label_starts)]
    assert labels == [list(clip.labels) for clip in clips]
    assert chunk.frames_SM.dtype == np.float16
    for clip, frames_TM in zip(clips, chunk.clips(), strict=True):
        np.testing.assert_array_equal(frames_TM, clip.frames_TM)
