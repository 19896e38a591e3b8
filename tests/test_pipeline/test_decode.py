"""Decoding: what a file sounds like survives its format, and what is no audio is refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import AudioConfig
from pipeline.audio import decode as module
from pipeline.audio.decode import AudioFile, Decoded, resample
from pipeline.audio.limits import WHOLE, Window
from pipeline.audio.refusal import ClipRefused

CONFIG = AudioConfig()
LOSSY = {"OGG", "MP3"}
HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body></body></html>\n"


def tone(frequency_hz: float, rate_hz: int, seconds: float, level: float = 0.5) -> npt.NDArray:
    return level * np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * rate_hz)) / rate_hz)


def encoded(samples: npt.NDArray, rate_hz: int, kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


def heard(waveform_N: npt.NDArray, rate_hz: int) -> tuple[float, float]:
    """Frequency and level of the strongest sine, away from the edges."""
    edge = len(waveform_N) // 10
    middle_N = waveform_N[edge:-edge].astype(np.float64)
    window_N = np.hanning(len(middle_N))
    spectrum = np.abs(np.fft.rfft(middle_N * window_N, n=8 * len(middle_N)))
    peak = int(spectrum.argmax())
    return peak * rate_hz / (8 * len(middle_N)), 2 * spectrum[peak] / window_N.sum()


def decode(data: bytes, config: AudioConfig = CONFIG, window: Window = WHOLE) -> Decoded:
    return module.decode(AudioFile(data), config, window)


def refusal(data: bytes, config: AudioConfig = CONFIG, window: Window = WHOLE) -> ClipRefused:
    with pytest.raises(ClipRefused) as caught:
        decode(data, config, window)
    return caught.value


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_tone_keeps_its_frequency_level_and_duration(
    kind: str, rate_hz: int, channels: int
) -> None:
    samples_NC = np.repeat(tone(440, rate_hz, 1.5)[:, None], channels, axis=1)
    decoded = decode(encoded(samples_NC, rate_hz, kind), CONFIG)
    frequency_hz, level = heard(decoded.waveform_N, CONFIG.sample_rate_hz)
    assert frequency_hz == pytest.approx(440, abs=0.5)
    assert 20 * np.log10(level / 0.5) == pytest.approx(0, abs=0.2 if kind in LOSSY else 0.005)
    assert abs(len(decoded.waveform_N) - 1.5 * CONFIG.sample_rate_hz) <= 1
    assert (decoded.source_rate_hz, decoded.source_samples) == (rate_hz, len(samples_NC))
    assert decoded.waveform_N.dtype == np.float32


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_24_bits_are_kept(kind: str) -> None:
    quiet_N = tone(440, 22_050, 0.5, level=2e-4)  # 6 steps of 16 bits
    decoded = decode(encoded(quiet_N, 22_050, kind, "PCM_24"), CONFIG)
    assert np.abs(decoded.waveform_N - quiet_N).max() <= 2.0**-23


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_eight_channels_are_averaged(kind: str) -> None:
    samples_N8 = np.zeros((22_050, 8))
    samples_N8[:, 3] = tone(440, 22_050, 1.0, level=0.8)
    decoded = decode(encoded(samples_N8, 22_050, kind), CONFIG)
    _, level = heard(decoded.waveform_N, 22_050)
    assert level == pytest.approx(0.1, rel=0.03 if kind in LOSSY else 1e-3)


@pytest.mark.parametrize("to_hz", [8_000, 16_000, 22_050, 32_000])
def test_resampling_down_keeps_what_fits_and_removes_the_rest(to_hz: int) -> None:
    both_N = tone(1_000, 44_100, 1.0) + tone(0.6 * to_hz, 44_100, 1.0)
    out_N = resample(both_N.astype(np.float32), 44_100, to_hz)
    middle = slice(to_hz // 10, -to_hz // 10)
    assert len(out_N) == to_hz
    assert np.abs(out_N - tone(1_000, to_hz, 1.0))[middle].max() < 1e-3


def test_resampling_up_adds_nothing() -> None:
    out_N = resample(tone(1_000, 16_000, 1.0).astype(np.float32), 16_000, 48_000)
    assert len(out_N) == 48_000
    assert np.abs(out_N - tone(1_000, 48_000, 1.0))[4_800:-4_800].max() < 1e-3


def test_the_same_rate_is_no_resampling() -> None:
    waveform_N = tone(1_000, 22_050, 0.1).astype(np.float32)
    assert resample(waveform_N, 22_050, 22_050).tobytes() == waveform_N.tobytes()


# --- refusals --------------------------------------------------------------------------------


def test_an_empty_file_is_refused() -> None:
    assert (refusal(b"").reason, refusal(b"").detail) == ("empty", "0 bytes")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HTML, "unknown_format"),
        (b"\0" * 4096, "unknown_format"),
        (encoded(tone(440, 44_100, 0.2), 44_100, "WAV")[:20], "truncated"),
        (encoded(tone(440, 44_100, 0.2), 44_100, "FLAC")[:30], "unreadable"),
        (encoded(tone(440, 44_100, 0.2), 44_100, "FLAC")[:2_000], "unreadable"),
        (encoded(tone(440, 44_100, 0.2), 44_100, "OGG")[:100], "truncated"),
        (encoded(tone(440, 44_100, 0.2), 44_100, "MP3")[:50], "truncated"),
    ],
    ids=["html", "zeros", "wav-header", "flac-header", "flac-body", "ogg-header", "mp3-header"],
)
def test_what_no_decoder_reads_is_refused(data: bytes, reason: str) -> None:
    assert refusal(data).reason == reason


def test_the_detail_of_a_refusal_is_for_people_and_the_same_each_time() -> None:
    assert refusal(HTML).detail == "it starts with 3c 21 44 4f 43 54 59 50"
    detail = refusal(encoded(tone(440, 44_100, 0.2), 44_100, "FLAC")[:2_000]).detail
    assert detail == "Error : flac decoder lost sync."
    assert "0x" not in detail, "a memory address: the bytes of the index would differ by run"


@pytest.mark.parametrize("kind", ["WAV", "OGG"])
def test_a_file_without_samples_is_refused(kind: str) -> None:
    assert refusal(encoded(np.zeros(0), 44_100, kind)).reason == "no_samples"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_no_numbers_are_refused(value: float, channels: int) -> None:
    samples_NC = np.repeat(tone(440, 44_100, 0.1)[:, None], channels, axis=1)
    samples_NC[1234, -1] = value
    assert refusal(encoded(samples_NC, 44_100, "WAV", "FLOAT")).reason == "not_finite"


def test_silence_is_refused_with_its_peak() -> None:
    refused = refusal(encoded(tone(440, 44_100, 0.1, level=5e-5), 44_100, "WAV", "FLOAT"))
    assert refused.reason == "silent"
    assert "5e-05" in refused.detail
    assert "0.0001" in refused.detail
    assert len(
        decode(encoded(tone(440, 44_100, 0.1, level=2e-4), 44_100, "FLAC"), CONFIG).waveform_N
    )


def test_channels_that_cancel_out_are_silent() -> None:
    left_N = tone(440, 44_100, 0.1)
    samples_N2 = np.stack([left_N, -left_N], axis=1)
    assert refusal(encoded(samples_N2, 44_100, "WAV", "FLOAT")).reason == "silent"


def test_the_threshold_of_silence_is_the_configs() -> None:
    data = encoded(tone(440, 44_100, 0.1, level=0.01), 44_100, "FLAC")
    assert refusal(data, AudioConfig(min_peak=0.02)).reason == "silent"


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_long_clip_is_refused_before_it_is_read(kind: str) -> None:
    data = encoded(tone(440, 16_000, 2.5), 16_000, kind)
    refused = refusal(data, window=Window(max_clip_s=2))
    assert refused.reason == "too_long"
    assert refused.detail == "2.5 s, over source.max_clip_s=2"
    assert len(decode(data, window=Window(max_clip_s=3)).waveform_N)


def test_a_flac_that_does_not_declare_its_length_is_decoded() -> None:
    """`ffmpeg ... -f flac - > x.flac` writes such files: STREAMINFO says 0 samples, unknown."""
    samples_N = tone(440, 44_100, 1.0)
    data = bytearray(encoded(samples_N, 44_100, "FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    assert decode(bytes(data), CONFIG).source_samples == len(samples_N)


def test_a_flac_without_a_length_is_too_long_by_what_comes_out() -> None:
    """It must not be cut at the limit and pass."""
    data = bytearray(encoded(tone(440, 44_100, 3.0), 44_100, "FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    window = Window(max_clip_s=2)
    assert refusal(bytes(data), CONFIG, window).reason == "too_long"


@pytest.mark.parametrize("rate_hz", [0, 1, 2**31 - 1, 2**32 - 1])
def test_a_header_with_an_absurd_rate_ends_in_a_refusal_or_a_waveform(rate_hz: int) -> None:
    data = bytearray(encoded(tone(440, 44_100, 0.1), 44_100, "WAV"))
    data[24:28] = struct.pack("<I", rate_hz)
    decode_or_refuse(bytes(data))


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["WAV", "FLAC", "OGG"]),
    changes=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 6_000),
)
def test_damage_ends_in_a_refusal_or_a_waveform(
    kind: str, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(encoded(tone(440, 44_100, 0.05), 44_100, kind))
    for place, value in changes:
        data[place] = value
    decode_or_refuse(bytes(data[: len(data) - cut]))


@given(st.binary(max_size=200))
def test_noise_is_no_audio(data: bytes) -> None:
    decode_or_refuse(data)


def decode_or_refuse(data: bytes) -> None:
    """Anything but ClipRefused would end a whole shard."""
    try:
        waveform_N = decode(data, CONFIG).waveform_N
    except ClipRefused:
        return
    assert np.isfinite(waveform_N).all()
