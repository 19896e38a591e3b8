"""What a file really is, by its first bytes; an extension is never believed.

The answer decides who decodes it: libsndfile for WAV, FLAC, Ogg Vorbis and MP3, the fastest
there; FFmpeg (through PyAV) for the rest. FFmpeg is always told which demuxer to use: left to
guess, it takes text for playlists and opens what they name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEAD_BYTES = 4096  # enough to see what a WAV or an Ogg stream holds
SNDFILE_WAV_CODECS = {1, 3, 6, 7, 0xFFFE}  # PCM, float, A-law, mu-law, "extensible"
ASF_GUID = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
W64_GUID = b"riff\x2e\x91\xcf\x11"


@dataclass(frozen=True)
class Format:
    """A container, and FFmpeg's demuxer for it; None where libsndfile reads it."""

    name: str
    demuxer: str | None = None


WAV, FLAC, VORBIS, MP3 = Format("wav"), Format("flac"), Format("ogg"), Format("mp3")

# Offset and bytes of a signature, in the order in which they are tried.
SIGNATURES: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"fLaC", FLAC),
    (4, b"ftyp", Format("mp4", "mov")),
    (4, b"moov", Format("mp4", "mov")),
    (4, b"mdat", Format("mp4", "mov")),
    (0, b"\x1a\x45\xdf\xa3", Format("matroska", "matroska")),
    (8, b"AIFF", Format("aiff", "aiff")),
    (8, b"AIFC", Format("aiff", "aiff")),
    (0, b".snd", Format("au", "au")),
    (0, b"caff", Format("caf", "caf")),
    (0, W64_GUID, Format("w64", "w64")),
    (0, ASF_GUID, Format("asf", "asf")),
    (8, b"AVI ", Format("avi", "avi")),
    (0, b"FLV\x01", Format("flv", "flv")),
    (0, b"#!AMR", Format("amr", "amr")),
    (0, b"\x0b\x77", Format("ac3", "ac3")),
    (0, b"wvpk", Format("wavpack", "wv")),
    (0, b"MAC ", Format("ape", "ape")),
    (0, b"TTA1", Format("tta", "tta")),
)


def sniff(data: bytes) -> Format | None:
    """The format of a file that starts with `data`, or None for one that is not known here."""
    head = data[:HEAD_BYTES]
    if head[:4] in (b"RIFF", b"RF64", b"RIFX") and head[8:12] == b"WAVE":
        return WAV if wav_codec(head) in SNDFILE_WAV_CODECS else Format("wav", "wav")
    if head[:4] == b"OggS":
        return VORBIS if b"\x01vorbis" in head[:128] else Format("ogg", "ogg")
    for offset, signature, found in SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return found
    if head[:3] == b"ID3":  # with a picture in it the tag may be larger than any head
        return _tagged(data[id3_bytes(head) :][:4])
    return _mpeg_audio(head)


def wav_codec(head: bytes) -> int:
    """The format tag of a WAV file's `fmt ` chunk; 0 if there is none in the head."""
    order: Literal["big", "little"] = "big" if head[:4] == b"RIFX" else "little"
    at = head.find(b"fmt ")
    return int.from_bytes(head[at + 8 : at + 10], order) if at >= 0 else 0


def id3_bytes(data: bytes) -> int:
    """Length of the ID3v2 tags at the start, which programs stack up, 0 if there are none
    (id3.org, ID3v2.4, section 3.1)."""
    at = 0
    while data[at : at + 3] == b"ID3" and len(data) >= at + 10:
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += 10 + size + (10 if data[at + 5] & 0x10 else 0)
    return at


def _tagged(start: bytes) -> Format:
    """What follows an ID3v2 tag: MP3, but for the two others that are seen with one."""
    if start == b"fLaC":
        return FLAC
    return _mpeg_audio(start) or MP3


def _mpeg_audio(head: bytes) -> Format | None:
    """MPEG audio without a tag starts with eleven set bits; the layer tells MP3 from AAC."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    layer = head[1] >> 1 & 3
    if layer == 0:
        return Format("aac", "aac") if head[1] & 0xF0 == 0xF0 else None
    return MP3
