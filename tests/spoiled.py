"""Clips that were spoiled in known ways, and what a run stored of clips."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from configs.load import merge
from configs.schema import Config
from pipeline.audio import decode as decoding
from pipeline.audio.decode import AudioFile, Decoded
from shards.frames import read_shard_frames
from shards.index import decoded, open_shards, read_index, read_shard_index
from shards.layout import Layout
from shards.seal import Seal
from tests.conftest import tiny_tree

MAX_CLIP_S = 2.0


def wav(samples: npt.NDArray, subtype: str = "FLOAT", rate_hz: int = 22_050) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format="WAV", subtype=subtype)
    return buffer.getvalue()


def noise(num_samples: int) -> npt.NDArray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, num_samples)


def delete(path: Path) -> None:
    path.unlink()


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def writes(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1_000])


FAULTS: list[tuple[str, Callable[[Path], None]]] = [
    ("missing", delete),
    ("not_a_file", make_directory),
    ("empty", writes(b"")),
    ("unreadable", truncate),
    ("unknown_format", writes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>")),
    ("silent", writes(wav(np.zeros(22_050)))),
    ("not_finite", writes(wav(np.where(np.arange(22_050) == 99, np.nan, 0.1)))),
    ("too_short", writes(wav(noise(300)))),
    ("too_long", writes(wav(noise(3 * 22_050)))),
]


def plant(clips: Path) -> dict[str, str]:
    """Spoil one clip for each fault; returns the reason that each should be refused for."""
    rows = (clips / "train_segments.csv").read_text(encoding="utf-8").splitlines()[3:]
    ids = [row.split(",")[0] for row in rows[::5]]
    reasons = {}
    for clip_id, (reason, spoil) in zip(ids, FAULTS, strict=False):
        spoil(clips / "audio" / f"{clip_id}.flac")
        reasons[clip_id] = reason
    assert len(reasons) == len(FAULTS)
    return reasons


def config_of(clips: Path, run: Path, **over: Any) -> Config:
    source = {"source": {"max_clip_s": MAX_CLIP_S}}
    return Config.model_validate(merge(merge(tiny_tree(clips, run), source), over))


def decode(data: bytes, config: Config) -> Decoded:
    return decoding.decode(AudioFile(data), config.audio)


def seal_of(config: Config) -> Seal:
    return open_shards(Layout(config.run))


def index_of(config: Config) -> list[dict[str, Any]]:
    seal = seal_of(config)
    return read_index(seal.layout, seal.records).to_pylist()


def stored_clips(config: Config) -> Iterator[tuple[dict[str, Any], npt.NDArray, dict[str, bytes]]]:
    """Every decoded clip: its index row, its frames, and its tar members by suffix."""
    seal = seal_of(config)
    for record in seal.records:
        frames_TM = read_shard_frames(seal.layout, record)
        members = {}
        for file in (file for file in record.files if file.path.startswith("audio/")):
            with tarfile.open(seal.layout.root / file.path) as tar:
                members = {info.name: tar.extractfile(info).read() for info in tar}
        rows = decoded(read_shard_index(seal.layout, record)).to_pylist()
        for row in rows:
            own = {n.split(".")[1]: d for n, d in members.items() if n.split(".")[0] == row["key"]}
            end = row["row_start"] + row["num_frames"]
            yield row, frames_TM[row["row_start"] : end], own
        assert len(frames_TM) == sum(row["num_frames"] for row in rows)
        assert list(members) in ([], tar_names(rows, False), tar_names(rows, True))


def tar_names(rows: list[dict[str, Any]], is_source: bool) -> list[str]:
    return [
        f"{row['key']}.{suffix}"
        for row in rows
        for suffix in (row["container"] if is_source else "flac", "json")
    ]


def stamps(run: Path) -> dict[Path, tuple[int, int]]:
    """What a file is and when it changed, but for the log, the lock and the last config."""
    changing = {"events.jsonl", "pipeline.lock", "config.yaml"}
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in run.rglob("*")
        if path.is_file() and path.name not in changing
    }


def names(run: Path) -> set[str]:
    """Names of all files made; data files carry their hashes in them."""
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
