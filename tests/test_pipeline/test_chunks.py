"""Containers of chunks: whole files hold what they promise, and no cut of one passes for whole."""

from __future__ import annotations

import struct
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.audio.decode import AudioFile, Decoded, declared_seconds
from pipeline.audio.refusal import ClipRefused
from tests.broken import chirp, decode, encoded, muxed

COUNTED = [
    *(("CAF", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24", "DOUBLE", "ULAW")),
    *(("W64", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT")),
]
ENCODED = [
    *COUNTED,
    ("CAF", "ALAC_16"),
    ("W64", "GSM610"),
    *(("AIFF", subtype) for subtype in ("PCM_16", "ULAW", "IMA_ADPCM")),
    *(("AU", subtype) for subtype in ("PCM_16", "ALAW", "G721_32")),
]
MUXED = [
    *(("caf", codec) for codec in ("pcm_s16le", "adpcm_ima_qt", "libmp3lame", "alac")),
    *(("avi", codec) for codec in ("pcm_s16le", "aac", "libmp3lame")),
    *(("flv", codec) for codec in ("aac", "libmp3lame", "pcm_s16le")),
    ("w64", "adpcm_ms"),
    ("asf", "wmav2"),
]
ALL = [f"{kind} {codec}" for kind, codec in (*ENCODED, *MUXED)]


@cache
def whole(name: str) -> tuple[bytes, int]:
    kind, codec = name.split()
    data = encoded(kind, codec) if kind.isupper() else muxed(kind, codec, 44_100)
    return data, decode(data).source_samples


def samples_or_refusal(data: bytes) -> Decoded | None:
    try:
        return decode(data)
    except ClipRefused:
        return None


def caf_chunk(data: bytes, name: bytes) -> tuple[int, int]:
    """Where a chunk begins and ends, header and all."""
    at = 8
    while data[at : at + 4] != name:
        at += 12 + struct.unpack_from(">q", data, at + 4)[0]
    return at, at + 12 + struct.unpack_from(">q", data, at + 4)[0]


def open_ended(data: bytes) -> bytes:
    """A Core Audio file whose samples come last, and go on to the end of the file."""
    at, end = caf_chunk(data, b"data")
    return data[:at] + data[end:] + b"data" + struct.pack(">q", -1) + data[at + 12 : end]


def packet_sizes(data: bytes) -> list[int]:
    at, end = caf_chunk(data, b"pakt")
    sizes, size = [], 0
    for byte in data[at + 12 + 24 : end]:
        size = size << 7 | byte & 0x7F
        if byte < 0x80:
            sizes.append(size)
            size = 0
    return sizes


@pytest.mark.parametrize("num_samples", [4_096, 7_001, 30_001])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("kind", "subtype"), COUNTED)
def test_a_files_promise_is_what_it_holds(
    kind: str, subtype: str, channels: int, num_samples: int
) -> None:
    data = encoded(kind, subtype, chirp(channels, 44_100, num_samples), 44_100)
    promise = AudioFile(data).declared()
    assert (promise.rate_hz, promise.channels, promise.samples) == (44_100, channels, num_samples)
    assert declared_seconds(AudioFile(data)) == num_samples / 44_100
    assert decode(data).source_samples == num_samples


@pytest.mark.parametrize("name", ALL)
def test_a_file_cut_anywhere_is_refused_or_gives_all_its_samples(name: str) -> None:
    """Also where the cut falls between two packets, of the file or of FFmpeg's making."""
    data, num_samples = whole(name)
    sizes = {*range(0, len(data), 89), *range(len(data) - 99, len(data))}
    for begin in (0, 104):  # FFmpeg reads 4 kB at once, from here or there
        sizes |= {*range(begin, len(data), 512)}
    for size in sizes:
        decoded = samples_or_refusal(data[:size])
        assert decoded is None or decoded.source_samples == num_samples, size


@pytest.mark.parametrize("name", ["CAF PCM_16", "CAF PCM_24", "caf libmp3lame"])
def test_core_audio_may_leave_the_length_of_its_samples_open(name: str) -> None:
    data, num_samples = whole(name)
    assert decode(open_ended(data)).source_samples == num_samples


def test_a_table_of_packets_tells_an_open_length() -> None:
    data = open_ended(whole("caf libmp3lame")[0])
    cut = len(data)
    for size in reversed(packet_sizes(data)):
        cut -= size
        with pytest.raises(ClipRefused, match="truncated"):
            decode(data[:cut])


def test_a_table_of_packets_behind_the_samples_is_missed() -> None:
    data, _ = whole("caf libmp3lame")
    at, end = caf_chunk(data, b"pakt")
    assert end == len(data)
    for size in (at, at + 12, at + 36, at + 50, end - 1):
        with pytest.raises(ClipRefused, match="truncated|unreadable"):
            decode(data[:size])


@settings(max_examples=300)
@given(st.sampled_from(ALL), st.integers(0, 8 * 256 - 1))
@example("CAF PCM_16", 8 * 20 + 1)  # a rate that is no number
@example("CAF DOUBLE", 312)  # samples beyond float32
@example("AU PCM_16", 122)  # samples that are no numbers
def test_a_flipped_bit_of_a_header_ends_in_samples_or_a_refusal(name: str, bit: int) -> None:
    data = bytearray(whole(name)[0])
    data[bit // 8] ^= 1 << bit % 8
    samples_or_refusal(bytes(data))


@pytest.mark.parametrize("codec", ["ac3", "eac3"])
def test_a_raw_stream_cut_within_a_frame_is_refused(codec: str) -> None:
    data = muxed(codec, codec, 48_000)
    size = data.index(b"\x0b\x77", 2)
    assert decode(data[: 20 * size]).source_samples == 20 * 1536
    for cut in range(size + 1, len(data), 97):
        if data[cut : cut + 2] != b"\x0b\x77":
            with pytest.raises(ClipRefused, match="truncated: no whole AC-3 frame"):
                decode(data[:cut])


@pytest.mark.parametrize("num_samples", [4_096, 7_001, 30_001])
@pytest.mark.parametrize(
    "name", ["matroska alac", "matroska pcm_s16le", "avi pcm_s16le", "caf alac", "ipod alac"]
)
def test_no_whole_file_of_a_lossless_codec_loses_a_sample(name: str, num_samples: int) -> None:
    """Durations may be rounded: to milliseconds, or to packets."""
    kind, codec = name.split()
    data = muxed(kind, codec, num_samples=num_samples)
    assert decode(data).source_samples == num_samples


def test_core_audio_may_count_a_short_last_packet_as_a_whole_one() -> None:
    """As FFmpeg wrote it up to version 5."""
    data = bytearray(whole("caf alac")[0])
    at, _ = caf_chunk(bytes(data), b"pakt")
    num_packets, num_valid, _, rest = struct.unpack_from(">qqii", data, at + 12)
    assert num_valid + rest == 4_096 * num_packets
    assert rest
    struct.pack_into(">qqii", data, at + 12, num_packets, num_valid + rest, 0, 0)
    assert decode(bytes(data)).source_samples == num_valid
