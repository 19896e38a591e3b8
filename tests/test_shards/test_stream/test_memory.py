"""Reading ten times the clips takes no more memory: a process of its own reads an epoch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.frame_sets import clips_of, made_run

CLIPS_A_SHARD = 50  # of about 1,500 frames, 12 KB of them, and 40 KB of audio

READ_ALL = """
import json, sys
from pathlib import Path
from functools import partial
import numpy as np
from shards.layout import Layout
from shards.stream.audio import open_audio, waveform_batch
from shards.stream.frames import FrameSource, frame_batch, open_frames
from shards.stream.order import GlobalOrder, WindowOrder
from shards.stream.schedule import Schedule
from shards.stream.stream import Stream

def values(data):
    return np.frombuffer(data, np.uint8).astype(np.float32)

root, kind = sys.argv[1:]
if kind == "frames":
    found = open_frames(Layout(Path(root)))
    source = FrameSource(*found.__reduce__()[1][:3], 1 << 20, 4)
    source.rows_at_once = 256
    order = WindowOrder(source.unit_sizes, source.window_units, 0)
    collate = partial(frame_batch, pad_value=0.0)
else:
    source = open_audio(Layout(Path(root)), values)
    order, collate = GlobalOrder(source.num_rows, 0), waveform_batch
stream = Stream(source, order, Schedule(source.num_rows, 32, 1), collate, num_threads=1)
clips = sum(step.num_examples for step in stream.steps())
peak_kib = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(json.dumps({"clips": clips, "peak_mib": int(peak_kib) / 1024}))
"""


def peak_mib(root: Path, kind: str, num_clips: int) -> float:
    words = [sys.executable, "-c", READ_ALL, str(root), kind]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["clips"] == num_clips
    return float(report["peak_mib"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frames", "audio"])
def test_peak_memory_at_ten_times_the_clips(kind: str, tmp_path: Path) -> None:
    peaks = []
    for num_shards in (12, 120):
        shards = [
            clips_of(seed, CLIPS_A_SHARD, (1400, 1600) if kind == "frames" else (1, 3), 80_000)
            for seed in range(num_shards)
        ]
        made = made_run(tmp_path / str(num_shards), shards)
        peaks.append(min(peak_mib(made.layout.root, kind, len(made.clips)) for _ in range(2)))
    assert peaks[1] <= 1.1 * peaks[0], peaks
