"""Sniffing: what a file is, by its bytes alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.sniff import id3_bytes, sniff, wav_codec
from tests.broken import encoded, good

NAMES = {
    "wav16": ("wav", None),
    "wav24": ("wav", None),
    "wavfloat": ("wav", None),
    "wavex": ("wav", None),
    "rf64": ("wav", None),
    "adpcm": ("wav", "wav"),
    "flac16": ("flac", None),
    "flac24": ("flac", None),
    "vorbis": ("ogg", None),
    "opus": ("ogg", "ogg"),
    "mp3": ("mp3", None),
    "aiff": ("aiff", "aiff"),
    "au": ("au", "au"),
    "caf": ("caf", "caf"),
    "w64": ("w64", "w64"),
    "m4a": ("mp4", "mov"),
    "alac": ("mp4", "mov"),
    "webm": ("matroska", "matroska"),
    "aac": ("aac", "aac"),
    "wavpack": ("wavpack", "wv"),
}


def id3(num_bytes: int, flags: int = 0) -> bytes:
    size = bytes(num_bytes >> shift & 0x7F for shift in (21, 14, 7, 0))
    footer = b"3DI\x04\0" + bytes([flags]) + size if flags & 0x10 else b""
    return b"ID3\x04\0" + bytes([flags]) + size + bytes(num_bytes) + footer


def test_every_format_is_known_and_who_reads_it() -> None:
    found = {name: sniff(data) for name, data in good().items()}
    assert {n: f and (f.name, f.demuxer) for n, f in found.items()} == NAMES


@pytest.mark.parametrize("tag_bytes", [10, 3_000, 5_000, 300_000])
@pytest.mark.parametrize(
    ("name", "container"), [("mp3", "mp3"), ("flac16", "flac"), ("aac", "aac")]
)
def test_a_tag_hides_nothing_however_large_its_picture(
    tag_bytes: int, name: str, container: str
) -> None:
    found = sniff(id3(tag_bytes) + good()[name])
    assert found is not None
    assert found.name == container


@given(st.integers(0, (1 << 28) - 1), st.booleans())
def test_the_length_of_a_tag_is_read_as_it_is_written(num_bytes: int, has_footer: bool) -> None:
    flags = 0x10 if has_footer else 0
    head = id3(0, flags)[:6] + bytes(num_bytes >> shift & 0x7F for shift in (21, 14, 7, 0))
    assert id3_bytes(head) == 10 + num_bytes + (10 if has_footer else 0)


@pytest.mark.parametrize("data", [b"", b"I", b"ID3", b"ID3\4\0\0\0", b"\xff\xfb\x90\0"])
def test_what_is_no_tag_has_no_length(data: bytes) -> None:
    assert id3_bytes(data) == 0


@pytest.mark.parametrize(
    ("subtype", "codec"),
    [("PCM_16", 1), ("FLOAT", 3), ("ALAW", 6), ("ULAW", 7), ("MS_ADPCM", 2), ("IMA_ADPCM", 0x11)],
)
def test_the_codec_of_a_wav_is_that_of_its_header(subtype: str, codec: int) -> None:
    assert wav_codec(encoded("WAV", subtype)) == codec


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html>",
        b"#EXTM3U\nhttp://127.0.0.1/x.ts",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"[playlist]\nFile1=/etc/passwd\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\n",
        b"<?xml version='1.0'?><MPD></MPD>",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"\xff\xff\xff\xff",
        bytes(5_000),
    ],
)
def test_what_is_no_audio_reaches_no_decoder(data: bytes) -> None:
    """FFmpeg would take some of these for playlists, and open what they name."""
    found = sniff(data)
    assert found is None or (found.name, data[:4]) == ("mp3", b"\xff\xff\xff\xff")


@given(st.binary(max_size=200))
def test_any_bytes_have_an_answer(data: bytes) -> None:
    found = sniff(data)
    assert found is None or found.name
