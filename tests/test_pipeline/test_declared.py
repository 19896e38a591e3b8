"""Declared lengths: what headers promise is what a whole file holds, and damage shows by it."""

from __future__ import annotations

import io
import struct
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from configs.schema import AudioConfig
from pipeline.audio.decode import AudioFile, Decoded, declared_seconds
from pipeline.audio.flac_frames import FrameHeader, read_header
from pipeline.audio.refusal import ClipRefused
from tests.broken import ID3V2, chirp, decode, encoded, good, muxed

AUDIO = AudioConfig()
RATE_HZ = 44_100


def lame(rate_hz: int, channels: int, num_samples: int, **options: str) -> bytes:
    """An MP3 file as `ffmpeg -c:a libmp3lame` writes it."""
    buffer = io.BytesIO()
    layout = "mono" if channels == 1 else "stereo"
    with av.open(buffer, "w", format="mp3") as output:
        bit_rate = int(options.pop("bit_rate", 0))
        stream = output.add_stream("libmp3lame", rate=rate_hz, options=options)
        stream.layout = layout
        if bit_rate:
            stream.bit_rate = bit_rate
        audio_CN = np.ascontiguousarray(chirp(channels, rate_hz, num_samples).T)
        for start in range(0, num_samples, 1152):
            part_CN = np.ascontiguousarray(audio_CN[:, start : start + 1152])
            frame = av.AudioFrame.from_ndarray(part_CN, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate_hz, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def chunk(name: bytes, data: bytes, order: str = "<") -> bytes:
    return name + struct.pack(f"{order}I", len(data)) + data + bytes(len(data) % 2)


def wav_of(
    before: bytes = b"", after: bytes = b"", order: str = "<", size: int | None = None
) -> bytes:
    """16-bit stereo by hand: chunks before and after the samples, either byte order, any size."""
    audio_NC = (chirp(2, RATE_HZ, 7_001) * 32_767).astype(f"{order}i2")
    data = audio_NC.tobytes()
    form = struct.pack(f"{order}HHIIHH", 1, 2, RATE_HZ, 4 * RATE_HZ, 4, 16)
    declared = struct.pack(f"{order}I", len(data) if size is None else size)
    body = chunk(b"fmt ", form, order) + before + b"data" + declared + data + after
    name = b"RIFX" if order == ">" else b"RIFF"
    return name + struct.pack(f"{order}I", 4 + len(body)) + b"WAVE" + body


ID3V1 = b"TAG" + bytes(125)


def adts(rate_hz: int, channels: int = 1) -> bytes:
    """One second of AAC without a container."""
    layout = "mono" if channels == 1 else "stereo"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="adts") as output:
        stream = output.add_stream("aac", rate=rate_hz)
        stream.layout = layout
        audio_CN = np.ascontiguousarray(chirp(channels, rate_hz, rate_hz).T)
        for start in range(0, rate_hz, 1024):
            part_CN = np.ascontiguousarray(audio_CN[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(part_CN, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate_hz, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


# --- whole files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [4_096, 7_001, 48_000])
@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "PCM_32"),
        ("WAV", "FLOAT"),
        ("WAV", "DOUBLE"),
        ("WAV", "ALAW"),
        ("WAV", "ULAW"),
        ("WAVEX", "PCM_24"),
        ("RF64", "PCM_16"),
        ("FLAC", "PCM_S8"),
        ("FLAC", "PCM_16"),
        ("FLAC", "PCM_24"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_a_files_promise_is_what_it_holds(
    kind: str, subtype: str, num_samples: int, channels: int, rate_hz: int
) -> None:
    data = encoded(kind, subtype, chirp(channels, rate_hz, num_samples), rate_hz)
    promise = AudioFile(data).declared()
    assert (promise.rate_hz, promise.channels) == (rate_hz, channels)
    assert promise.samples == num_samples
    assert declared_seconds(AudioFile(data)) == num_samples / rate_hz
    assert decode(data).source_samples == num_samples


@pytest.mark.parametrize(
    "data",
    [
        wav_of(),
        wav_of(before=chunk(b"LIST", b"INFOISFT" + bytes(9_001))),
        wav_of(before=chunk(b"bext", bytes(602)) + chunk(b"JUNK", bytes(28))),
        wav_of(after=chunk(b"LIST", b"data" + bytes(999))),
        wav_of(order=">"),
        wav_of(order=">", before=chunk(b"cue ", bytes(28), ">")),
    ],
    ids=["plain", "list", "broadcast", "list-after", "big-endian", "big-endian-cue"],
)
def test_chunks_around_the_samples_of_a_wav_are_no_samples(data: bytes) -> None:
    assert AudioFile(data).declared().samples == 7_001
    assert decode(data).source_samples == 7_001


@pytest.mark.parametrize("size", [0xFFFFFFFF])
def test_a_wav_written_to_a_pipe_declares_nothing_and_gives_all(size: int) -> None:
    data = wav_of(size=size)
    assert AudioFile(data).declared().samples is None
    assert decode(data).source_samples == 7_001


@pytest.mark.parametrize("num_samples", [5_000, 30_001])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize(
    "options",
    [{"bit_rate": "64000"}, {"bit_rate": "128000"}, {"q": "4", "flags": "+qscale"}, {"abr": "1"}],
    ids=["64k", "128k", "vbr", "abr"],
)
def test_an_mp3s_promise_is_what_it_holds(
    options: dict[str, str], rate_hz: int, channels: int, num_samples: int
) -> None:
    data = lame(rate_hz, channels, num_samples, **options)
    assert AudioFile(data).declared().samples == num_samples
    for tagged in (
        data + ID3V1,
        ID3V2 + data,
        ID3V2 + data + ID3V1,
        data + b"APETAGEX" + bytes(99),
    ):
        promise = AudioFile(tagged).declared()
        assert (promise.rate_hz, promise.channels) == (rate_hz, channels)
        assert promise.samples == num_samples
        assert decode(tagged).source_samples == num_samples


def test_a_flac_behind_a_large_tag_is_a_flac() -> None:
    decoded = decode(ID3V2 + good()["flac16"])
    assert (decoded.container, decoded.source_samples) == ("flac", 22_050)


def test_an_ogg_of_many_pages_holds_what_its_last_one_says() -> None:
    data = encoded("OGG", "VORBIS", chirp(2, RATE_HZ, 400_000), RATE_HZ)
    assert data.count(b"OggS") > 10
    assert AudioFile(data).declared().samples == 400_000
    assert decode(data).source_samples == 400_000


def test_real_ogg_files_hold_what_they_promise(esc10: Path) -> None:
    for path in sorted(esc10.glob("*/*.ogg"))[::20]:
        data = path.read_bytes()
        promise = AudioFile(data).declared()
        assert promise.samples == soundfile.info(path).frames
        assert decode(data).source_samples == promise.samples


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
def test_an_adts_stream_is_counted_not_guessed(rate_hz: int) -> None:
    data = muxed("adts", "aac", rate_hz)
    promise = AudioFile(data).declared()
    assert (promise.rate_hz, promise.samples) == (rate_hz, decode(data).source_samples)
    assert promise.samples is not None
    assert rate_hz <= promise.samples <= rate_hz + 2 * 1024


def test_an_adts_stream_of_changing_bit_rate_is_read_to_its_end() -> None:
    """FFmpeg takes the length of such a stream from the bit rate of its first frames."""
    loud = muxed("adts", "aac", RATE_HZ)
    noise = np.random.default_rng(0).normal(0, 0.3, (5 * RATE_HZ, 1)).astype(np.float32)
    with io.BytesIO() as buffer, av.open(buffer, "w", format="adts") as output:
        stream = output.add_stream("aac", rate=RATE_HZ)
        stream.bit_rate, stream.layout = 16_000, "mono"
        for start in range(0, len(noise) - 1024, 1024):
            part = np.ascontiguousarray(1e-3 * noise[start : start + 1024].T)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        quiet = buffer.getvalue()
    for data in (quiet + loud * 3, loud * 3 + quiet):
        promise = AudioFile(data).declared()
        assert decode(data).source_samples == promise.samples


@pytest.mark.parametrize(
    "data",
    [adts(44_100) + adts(22_050), adts(44_100, 1) + adts(44_100, 2)],
    ids=["rate", "channels"],
)
def test_a_stream_that_changes_its_rate_or_channels_is_refused(data: bytes) -> None:
    with pytest.raises(ClipRefused, match="rate or channels change after"):
        decode(data)


def test_a_stream_that_cannot_tell_its_length_is_not_called_cut() -> None:
    """Only the head of a file over 64 MiB is read."""
    data = muxed("adts", "aac", RATE_HZ)
    with pytest.raises(ClipRefused, match="too_large: .*put it into an MP4 file"):
        AudioFile(data[:500], "long.aac", 100 << 20).declared()


# --- damage --------------------------------------------------------------------------------------


@cache
def whole() -> dict[str, tuple[bytes, int]]:
    return {name: (data, decode(data).source_samples) for name, data in good().items()}


def samples_or_refusal(data: bytes) -> Decoded | None:
    try:
        return decode(data)
    except ClipRefused:
        return None


@settings(max_examples=400)
@given(st.sampled_from(sorted(good())), st.floats(0, 1), st.integers(0, 64))
@example(name="caf", share=0.7648806265930976, few=0)
def test_a_cut_file_is_refused_or_gives_all_its_samples(name: str, share: float, few: int) -> None:
    data, num_samples = whole()[name]
    for size in (int(share * len(data)), len(data) - few, few):
        if name == "aac" and is_adts(data[:size]):
            continue  # nothing in it says that there was more
        decoded = samples_or_refusal(data[:size])
        assert decoded is None or decoded.source_samples == num_samples


def is_adts(data: bytes) -> bool:
    """Whether the data are whole frames."""
    at = 0
    while at + 7 <= len(data):
        at += (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    return at == len(data)


def with_bit(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def assert_found_or_harmless(name: str, bit: int) -> None:
    data, num_samples = whole()[name]
    decoded = samples_or_refusal(with_bit(data, bit))
    if decoded is not None:
        assert decoded.source_samples == num_samples
        assert decoded.source_rate_hz == decode(data).source_rate_hz
        assert decoded.source_channels == 1


@settings(max_examples=300)
@given(st.sampled_from(["flac16", "flac24", "vorbis", "opus"]), st.floats(0, 1, exclude_max=True))
def test_a_flipped_bit_in_flac_or_ogg_is_found_or_harmless(name: str, share: float) -> None:
    assert_found_or_harmless(name, int(share * 8 * len(whole()[name][0])))


@pytest.mark.parametrize("name", ["flac16", "flac24", "vorbis"])
def test_no_bit_of_a_header_can_flip_unnoticed(name: str) -> None:
    for bit in range(8 * 64):
        assert_found_or_harmless(name, bit)


def flac_saying(data: bytes, total: int) -> bytes:
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | total
    return data[:18] + packed.to_bytes(8, "big") + data[26:]


@pytest.mark.parametrize("total", [1, 100, 4_096, 8_192, 22_049])
def test_a_flac_that_promises_less_than_it_holds_is_refused(total: int) -> None:
    """libsndfile would stop there without a word."""
    with pytest.raises(ClipRefused, match=f"STREAMINFO says {total} samples, frames more"):
        decode(flac_saying(good()["flac16"], total))


def test_a_flac_that_promises_nothing_is_read_to_its_end() -> None:
    assert decode(flac_saying(good()["flac16"], 0)).source_samples == 22_050


@pytest.mark.parametrize("tail", [ID3V1, bytes(300), b"\xff\xf8" * 50, b"\xff\xf8\xc9\x18\0\0" * 9])
def test_bytes_behind_a_flac_do_not_condemn_it(tail: bytes) -> None:
    assert decode(good()["flac16"] + tail).source_samples == 22_050


@pytest.mark.parametrize("rate_hz", [8_000, 12_345, 44_100, 96_000, 12_000, 65_530])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_headers_of_flac_frames_are_read_as_they_are_written(rate_hz: int, channels: int) -> None:
    """By libFLAC: rates with a code, in kHz, in Hz and in tens of Hz; a last frame of any size."""
    data = encoded("FLAC", "PCM_16", chirp(channels, rate_hz, 10_123), rate_hz)
    headers = []
    at = -1
    while (at := data.find(b"\xff\xf8", at + 1)) >= 0:
        header = read_header(data, at)
        if header is not None and header.number == len(headers):
            headers.append(header)
    assert sum(header.samples for header in headers) == 10_123
    assert {header.channels for header in headers} == {channels}
    assert {header.rate_hz for header in headers} <= {rate_hz, None}
    assert decode(data).source_samples == 10_123


def test_bytes_that_are_no_flac_frame_have_no_header() -> None:
    data = good()["flac16"]
    start = data.find(b"\xff\xf8")
    assert isinstance(read_header(data, start), FrameHeader)
    assert read_header(data, start + 1) is None
    assert read_header(data[: start + 3], start) is None
    for bit in range(8 * 5):
        assert read_header(with_bit(data[start : start + 40], bit), 0) is None
