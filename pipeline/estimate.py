"""`shard --dry-run`: what a job would read, write and cost, without decoding anything."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from configs.console import say
from configs.schema import Config
from pipeline.audio.frames import check_filters
from pipeline.planning import catalogue as offered
from pipeline.planning import say_splits
from shards.plan import Catalogue, clips_per_shard

NOMINAL_CLIP_S = 10.0  # where a source declares no durations
# Measured by `make bench NAME=ingest`: 48 kHz, 24-bit stereo FLAC, one core.
CORE_MS_PER_AUDIO_S = {"flac": 2.0, "source": 2.1, "none": 1.5}
FLAC_BYTES_PER_SAMPLE = 1.05
FRAME_BYTES_PER_MEL = 1.45  # float16 after blosc


def run(config: Config) -> int:
    """Print counts, shards, bytes and core-hours for each source set and for all."""
    check_filters(config.audio.sample_rate_hz, config.frames)
    catalogue = offered(config)
    per_shard = clips_per_shard(catalogue.clips.num_rows, config.shards)
    say(f"{'set':<14}{'clips':>10}{'labels':>10}{'classes':>9}{'shards':>8}{'GB':>9}{'core-h':>8}")
    sets = list(dict.fromkeys(catalogue.clips.column("set").to_pylist()))
    for name in sets:
        rows = catalogue.clips.filter(pc.equal(catalogue.clips.column("set"), name))
        say(_line(config, name, rows, per_shard))
    if len(sets) > 1:
        say(_line(config, "all", catalogue.clips, per_shard))
    say(_footer(config, catalogue, per_shard))
    say_splits(config.split, catalogue.clips)
    return 0


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


def _footer(config: Config, catalogue: Catalogue, per_shard: int) -> str:
    parts = disk_bytes(config, audio_seconds(catalogue.clips))
    listed = ", ".join(f"{name} {num_bytes / 1e9:.2f}" for name, num_bytes in parts.items())
    passed = " + the source's own bytes" if config.audio.store == "source" else ""
    return (
        f"{len(catalogue.classes)} classes, {per_shard} clips a shard; GB: {listed}{passed}. "
        "Nothing was decoded; missing clips would be counted into quarantine."
    )
