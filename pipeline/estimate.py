"""`shard --dry-run`: what a job would read, write and cost, without decoding anything."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from configs.console import say
from configs.schema import Config
from pipeline.audio.frames import check_filters
from pipeline.planning import catalogue as offered
from pipeline.planning import say_splits
from pipeline.scale import (
    CORE_MS_PER_AUDIO_S,
    SOURCE_BYTES_PER_AUDIO_S,
    Job,
    describe,
    index_bytes,
    record_bytes,
)
from pipeline.storage import is_remote
from shards.plan import clips_per_shard

NOMINAL_CLIP_S = 10.0  # where a source declares no durations
WEIGHED = 200  # files, to know how large they are
FLAC_BYTES_PER_SAMPLE = 1.05
FRAME_BYTES_PER_MEL = 1.45  # float16 after blosc


def run(config: Config) -> int:
    """Print counts, shards, bytes and core-hours for each source set and for all."""
    check_filters(config.audio.sample_rate_hz, config.frames)
    catalogue = offered(config)
    per_shard = clips_per_shard(catalogue.clips.num_rows, config.shards)
    say(f"{'set':<14}{'clips':>10}{'labels':>10}{'classes':>9}{'shards':>8}{'GB':>9}{'core-h':>8}")
    sets = pc.unique(catalogue.clips.column("set")).to_pylist()
    for name in sets:
        rows = catalogue.clips.filter(pc.equal(catalogue.clips.column("set"), name))
        say(_line(config, name, rows, per_shard))
    if len(sets) > 1:
        say(_line(config, "all", catalogue.clips, per_shard))
    say(
        f"{len(catalogue.classes)} classes, {per_shard} clips a shard. Nothing was decoded; "
        "missing clips would be quarantined."
    )
    say_splits(config.split, catalogue.clips, catalogue.classes)
    read_bytes, read_from = source_bytes(config.source.root, catalogue.clips)
    say("\n".join(["", *describe(job_of(config, catalogue.clips, read_bytes), read_from)]))
    return 0


def job_of(config: Config, clips: pa.Table, read_bytes: float) -> Job:
    """The size of the job that makes these clips."""
    num_tasks = -(-clips.num_rows // clips_per_shard(clips.num_rows, config.shards))
    seconds = audio_seconds(clips)
    made = disk_bytes(config, seconds)
    return Job(
        num_tasks=num_tasks,
        num_clips=clips.num_rows,
        audio_s=seconds,
        core_ms_per_audio_s=CORE_MS_PER_AUDIO_S[config.audio.store],
        read_bytes=read_bytes,
        written_bytes={
            "audio": read_bytes if config.audio.store == "source" else made["audio"],
            "frames": made["frames"],
            "index": index_bytes(clips.num_rows),
            "records": record_bytes(num_tasks, config.frames.num_bins),
        },
        later_bytes={"tokens": made["tokens"]},
    )


def source_bytes(root: str, clips: pa.Table) -> tuple[float, str]:
    """Bytes to read for all clips, and where that number is from: the source's lists, the size of
    some of its files, or, where none is there, an assumption."""
    if not clips.column("num_bytes").null_count:
        return float(pc.sum(clips.column("num_bytes")).as_py() or 0), "as the lists say"
    some = clips.take(pa.array(_evenly(clips.num_rows, WEIGHED)))
    sizes = [] if is_remote(root) else _sizes(root, some)
    if sizes:
        mean = sum(sizes) / len(sizes)
        return mean * clips.num_rows, f"by the size of {len(sizes)} of its files"
    assumed = audio_seconds(clips) * SOURCE_BYTES_PER_AUDIO_S
    return assumed, f"assumed: {SOURCE_BYTES_PER_AUDIO_S / 1e3:g} kB a second of audio"


def _evenly(number: int, most: int) -> list[int]:
    """At most so many places in a list, evenly spaced."""
    return list(range(0, number, -(-number // most)))


def _sizes(root: str, rows: pa.Table) -> list[int]:
    """Of the files that are there and hold one clip each."""
    columns = (rows.column(name).to_pylist() for name in ("path", "start_s", "row_group", "member"))
    sizes = []
    for path, *parts in zip(*columns, strict=True):
        if all(part is None for part in parts):
            with suppress(OSError, ValueError):
                sizes.append(Path(root, path).stat().st_size)
    return sizes


def _line(config: Config, name: str, rows: pa.Table, per_shard: int) -> str:
    labels = rows.column("labels").combine_chunks().flatten()
    seconds = audio_seconds(rows)
    num_bytes = sum(disk_bytes(config, seconds).values())
    core_hours = seconds * CORE_MS_PER_AUDIO_S[config.audio.store] / 3.6e6
    shards = -(-rows.num_rows // per_shard)
    return (
        f"{name:<14}{rows.num_rows:>10}{len(labels):>10}{len(labels.unique()):>9}{shards:>8}"
        f"{num_bytes / 1e9:>9.2f}{core_hours:>8.2f}"
    )


def audio_seconds(rows: pa.Table) -> float:
    """Declared seconds of audio, NOMINAL_CLIP_S for a clip without."""
    known = pc.sum(rows.column("duration_s")).as_py() or 0.0
    return float(known + NOMINAL_CLIP_S * rows.column("duration_s").null_count)


def disk_bytes(config: Config, seconds: float) -> dict[str, float]:
    """Estimated bytes of each kind of output for some seconds of audio."""
    frames = (
        seconds
        * config.audio.sample_rate_hz
        / config.frames.hop_samples(config.audio.sample_rate_hz)
    )
    flac = seconds * config.audio.sample_rate_hz * FLAC_BYTES_PER_SAMPLE
    return {
        "audio": flac if config.audio.store == "flac" else 0.0,
        "frames": frames * config.frames.num_bins * FRAME_BYTES_PER_MEL,
        "tokens": frames * 2,
    }
