"""Long files are cut into clips at plan time, and every clip is the stretch that its id says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Config
from configs.sources import WindowsConfig
from pipeline.planning import catalogue
from pipeline.verbs import run_verb
from pipeline.windows import starts_ms
from shards.frames import read_shard_frames
from shards.index import decoded, open_shards, read_index, read_shard_index
from shards.layout import Layout

RATE_HZ = 22_050


@given(
    seconds=st.floats(0.01, 100),
    length_s=st.floats(0.5, 20),
    hop_s=st.one_of(st.none(), st.floats(0.2, 20)),
    min_s=st.floats(0.1, 5),
)
def test_windows_begin_on_the_hop_and_stay_inside(
    seconds: float, length_s: float, hop_s: float | None, min_s: float
) -> None:
    config = WindowsConfig(length_s=length_s, hop_s=hop_s, min_s=min_s)
    windows = list(starts_ms(seconds, config))
    total, length, step = (round(1000 * s) for s in (seconds, length_s, config.step_s))
    assert windows[0][0] == 0
    assert [start for start, _ in windows] == [step * number for number in range(len(windows))]
    assert all(end == min(start + length, total) for start, end in windows)
    assert all(end - start >= min(1000 * min_s, length) for start, end in windows[1:])
    following = step * len(windows)
    assert min(following + length, total) - following < max(min(1000 * min_s, length), 1)


def config_of(root: Path, run: Path, **source: Any) -> Config:
    return Config.model_validate(
        {
            "run": str(run),
            "source": {"kind": "folder", "root": str(root), "windows": {"length_s": 2}, **source},
            "cluster": {"kind": "inline"},
            "quarantine": {"max_share": 1.0},
        }
    )


def chirp(seconds: float) -> np.ndarray:
    time_s = np.arange(int(RATE_HZ * seconds)) / RATE_HZ
    return 0.3 * np.sin(2 * np.pi * (200 + 100 * time_s) * time_s)


def write(path: Path, audio: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, RATE_HZ)
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_windows_frames_are_those_of_its_stretch(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"in/long/a.{suffix}", chirp(7))
    whole, _ = soundfile.read(tmp_path / f"in/long/a.{suffix}", dtype="float32")
    for start in (0, 2, 4, 6):
        part = whole[start * RATE_HZ : (start + 2) * RATE_HZ]
        soundfile.write(tmp_path / f"cut{start}.wav", part, RATE_HZ, subtype="FLOAT")
        (tmp_path / "parts/long").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"cut{start}.wav").rename(tmp_path / f"parts/long/{start}.wav")
    windows = frames_by_id(config_of(tmp_path / "in", tmp_path / "run"))
    parts = frames_by_id(config_of(tmp_path / "parts", tmp_path / "run2", windows=None))
    assert len(windows) == len(parts) == 4
    for start in (0, 2, 4, 6):
        ours, theirs = windows[f"long/a.{suffix}_{start * 1000}"], parts[f"long/{start}.wav"]
        if suffix == "mp3":  # whose decoder sums in another order after a seek
            loud = theirs > -60
            assert np.abs(ours - theirs)[loud].max() <= 2.0**-4
            assert loud.mean() > 0.2
        else:
            assert np.array_equal(ours, theirs)


def frames_by_id(config: Config) -> dict[str, np.ndarray]:
    assert run_verb(config, "shard") == 0
    layout = Layout(config.run)
    found = {}
    for record in open_shards(layout).records:
        frames_TM = read_shard_frames(layout, record)
        for row in decoded(read_shard_index(layout, record)).to_pylist():
            found[row["id"]] = frames_TM[row["row_start"] : row["row_start"] + row["num_frames"]]
    return found


def test_all_windows_of_a_file_are_one_group_in_one_shard(tmp_path: Path) -> None:
    for name in "abcd":
        write(tmp_path / f"in/x/{name}.wav", chirp(9))
    clips = catalogue(config_of(tmp_path / "in", tmp_path / "run")).clips
    assert len(clips) == 4 * 5
    assert clips.column("group").to_pylist() == clips.column("path").to_pylist()
    assert clips.column("duration_s").to_pylist()[:5] == [2.0, 2.0, 2.0, 2.0, 1.0]


def test_a_file_too_large_to_hold_is_read_by_windows(tmp_path: Path) -> None:
    audio = np.tile(chirp(10), 160)  # 1,600 s, 70 MB
    write(tmp_path / "in/x/huge.wav", audio)
    config = config_of(tmp_path / "in", tmp_path / "run", windows={"length_s": 50})
    frames = frames_by_id(config)
    assert len(frames) == 32
    assert {len(frames_TM) for frames_TM in frames.values()} == {1 + 50 * RATE_HZ // 512}


def test_without_windows_a_long_file_goes_into_quarantine(tmp_path: Path) -> None:
    write(tmp_path / "in/x/long.wav", chirp(7))
    config = config_of(tmp_path / "in", tmp_path / "run", windows=None, max_clip_s=5)
    assert run_verb(config, "shard") == 0
    layout = Layout(config.run)
    [record] = open_shards(layout).records
    row = read_shard_index(layout, record).to_pylist()[0]
    assert row["reason"] == "too_long"
    assert "source.max_clip_s=5" in row["detail"]


def test_a_broken_file_stays_one_clip_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path / "in/x/good.wav", chirp(5))
    (tmp_path / "in/x/bad.wav").write_bytes(b"<html>")
    config = config_of(tmp_path / "in", tmp_path / "run")
    assert run_verb(config, "shard") == 0
    layout = Layout(config.run)
    rows = read_index(layout, open_shards(layout).records).to_pylist()
    assert {row["id"]: row["reason"] for row in rows} == {
        "x/bad.wav": "unknown_format",
        **{f"x/good.wav_{start}": None for start in (0, 2000, 4000)},
    }


def test_windows_longer_than_a_clip_may_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"windows\.length_s 70\.0 is over max_clip_s 60\.0"):
        config_of(tmp_path, tmp_path / "run", windows={"length_s": 70})
