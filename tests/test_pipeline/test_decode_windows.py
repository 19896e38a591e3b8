"""A window of a file: the same samples as cutting the whole, whatever the format."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from configs.schema import AudioConfig
from pipeline.audio.decode import AudioFile
from pipeline.audio.decode import decode as decode_file
from pipeline.audio.limits import Window
from pipeline.audio.refusal import ClipRefused
from tests.broken import ID3V2, chirp, decode, encoded, muxed

AUDIO = AudioConfig()
RATE_HZ = 44_100


@cache
def stereo_second(name: str) -> bytes:
    audio = chirp(2, RATE_HZ, 3 * RATE_HZ)
    files = {
        "wav": lambda: encoded("WAV", "PCM_24", audio, RATE_HZ),
        "flac": lambda: encoded("FLAC", "PCM_16", audio, RATE_HZ),
        "ogg": lambda: encoded("OGG", "VORBIS", audio, RATE_HZ),
        "mp3": lambda: encoded("MP3", "MPEG_LAYER_III", audio, RATE_HZ),
        "aiff": lambda: encoded("AIFF", "PCM_16", audio, RATE_HZ),
        "m4a": lambda: muxed("ipod", "aac", RATE_HZ),
        "opus": lambda: muxed("ogg", "libopus", 48_000),
        "aac": lambda: muxed("adts", "aac", RATE_HZ),
    }
    return files[name]()


@settings(max_examples=25)
@given(start_ms=st.integers(0, 3_200), length_ms=st.integers(1, 2_000))
@example(start_ms=1029, length_ms=1)
@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3", "aiff", "m4a", "opus", "aac"])
def test_a_window_is_a_slice_of_the_whole(name: str, start_ms: int, length_ms: int) -> None:
    data = stereo_second(name)
    rate_hz = 48_000 if name == "opus" else RATE_HZ
    start_s, end_s = start_ms / 1000, (start_ms + length_ms) / 1000
    all_N = decode(data, rate_hz=rate_hz).waveform_N
    wanted_N = all_N[round(start_s * rate_hz) : round(end_s * rate_hz)]
    window = Window(start_s, end_s)
    reason = reason_against(wanted_N)
    if reason:
        with pytest.raises(ClipRefused, match=reason):
            decode(data, window, rate_hz)
    else:
        assert decode(data, window, rate_hz).waveform_N.tobytes() == wanted_N.tobytes()


def reason_against(samples_N: npt.NDArray[np.float32]) -> str | None:
    """Why a clip of these samples alone would be refused: a chirp has quiet milliseconds, too."""
    if len(samples_N) == 0:
        return "no_samples"
    if np.abs(samples_N).max() < AudioConfig().min_peak:
        return "silent"
    return "constant" if samples_N.min() == samples_N.max() else None


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3", "m4a"])
def test_a_window_to_the_end_leaves_nothing_out(name: str) -> None:
    all_N = decode(stereo_second(name), rate_hz=RATE_HZ).waveform_N
    rest_N = decode(stereo_second(name), Window(0.25), RATE_HZ).waveform_N
    assert rest_N.tobytes() == all_N[11_025:].tobytes()


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3", "m4a"])
def test_a_window_of_a_file_on_disk_is_the_same(name: str, tmp_path: Path) -> None:
    """Of a file over 64 MiB only the head is in memory."""
    data = stereo_second(name)
    path = tmp_path / f"file.{name}"
    path.write_bytes(data)
    window = Window(0.2, 0.7)
    on_disk = AudioFile(data[:4096], str(path), len(data))
    config = AudioConfig(sample_rate_hz=RATE_HZ)
    there = decode_file(on_disk, config, window)
    assert there.waveform_N.tobytes() == decode(data, window, RATE_HZ).waveform_N.tobytes()


def test_a_window_of_a_large_mp3_with_a_picture_is_the_same(tmp_path: Path) -> None:
    """The head that is in memory holds nothing but a part of the tag."""
    data = stereo_second("mp3")
    path = tmp_path / "file.mp3"
    path.write_bytes(ID3V2 + data)
    window = Window(0.2, 0.7)
    on_disk = AudioFile((ID3V2 + data)[:4096], str(path), len(ID3V2 + data))
    there = decode_file(on_disk, AudioConfig(sample_rate_hz=RATE_HZ), window)
    assert there.waveform_N.tobytes() == decode(data, window, RATE_HZ).waveform_N.tobytes()


def test_a_window_longer_than_a_clip_may_be_is_refused() -> None:
    for name in ("wav", "m4a"):
        with pytest.raises(ClipRefused, match="too_long"):
            decode(stereo_second(name), Window(0.1, 0.9, max_clip_s=0.5))
