"""The job that the trials begin, break and begin again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipeline.synth import write_set
from shards.index import open_shards, read_index
from shards.layout import Layout
from tests.commands import ROOT

Report = dict[str, Any]

OTHER_CLOCK = Path(__file__).with_name("other_clock")


def small_job(directory: Path, num_clips: int = 16, num_shards: int = 2, **over: Any) -> Path:
    """A config for generated clips of 0.4 s in one process; nothing is made yet."""
    clips = directory / "clips"
    if not clips.exists():
        write_set(clips, num_clips, seed=7, seconds=over.pop("seconds", 0.4))
    tree = {
        "run": str(directory / "run"),
        "source": {
            "kind": "audioset",
            "root": str(clips),
            "classes": str(clips / "class_labels_indices.csv"),
            "sets": {
                name: {"segments": str(clips / f"{name}_segments.csv"), "files": "audio/{id}.flac"}
                for name in ("train", "eval")
            },
        },
        "shards": {"clips_per_shard": -(-num_clips // num_shards), "min_shards": num_shards},
        "cluster": {"kind": "inline"},
        **over,
    }
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def index_of(layout: Layout) -> pa.Table:
    """The index of a sealed run, all shards."""
    return read_index(layout, open_shards(layout).records)


def committed(run: Path) -> dict[str, int]:
    """Commit records and when each was written."""
    paths = (run / "commits/shard/default").glob("0*.json")
    return {path.name: path.stat().st_mtime_ns for path in paths}


def fresh(config: Path, overrides: list[str], kernel: str) -> subprocess.Popen[bytes]:
    """`pipeline shard` as a user starts it, under a BLAS kernel, and with it another time zone,
    locale, hash seed and umask, and clocks that differ between processes."""
    env = {
        **os.environ,
        "PYTHONHASHSEED": str(len(kernel)),
        "TZ": "Asia/Tokyo" if kernel else "UTC",
        "LC_ALL": "C" if kernel else "C.UTF-8",
    }
    env.pop("OPENBLAS_CORETYPE", None)
    if kernel:
        env["OPENBLAS_CORETYPE"] = kernel
        env["PYTHONPATH"] = str(OTHER_CLOCK)
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "shard", str(config), *overrides],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        umask=0o077 if kernel else 0o022,
    )
