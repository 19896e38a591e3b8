"""Containers made of pieces that say how long they are, which FFmpeg reads.

FFmpeg takes the end of a cut file for the end of its samples wherever the cut falls between two
of the packets that it makes up. So whether the piece with the samples is all there is read here.
Sources: Apple Core Audio Format 1.0; Sony Wave64; AIFF-C (Apple, 1991); Sun's .snd; RIFF AVI
(Microsoft, 1992); Advanced Systems Format (Microsoft, 2004); ISO 14496-12 (MP4); RFC 9559
(Matroska).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.audio.limits import Declared
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sniff import SNDFILE_WAV_CODECS

NO_SIZES = (0, 0xFFFFFFFF)  # of 32 bits, left by a program that could not go back to fill it in
NO_LONG_SIZE = 1 << 62  # and of 64 bits: this or more
UNKNOWN_SEGMENT = (1 << 56) - 1  # a stream that was written live
W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the names of its chunks, but for RIFF's
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object of file properties
ASF_IS_LIVE = 1
FLV_SIZE = b"\0\x08filesize\0"


@dataclass(frozen=True)
class _Layout:
    """How long a chunk's name is, how its size is packed, whether that counts name and size, and
    of how many bytes the whole is a multiple."""

    name_bytes: int
    size: str
    counts_header: bool
    align: int


CAF, W64 = _Layout(4, ">q", False, 1), _Layout(16, "<Q", True, 8)
IFF, RIFF, ASF = _Layout(4, ">I", False, 2), _Layout(4, "<I", False, 2), _Layout(16, "<Q", True, 1)


@dataclass(frozen=True)
class _Chunk:
    """Where its contents begin, and how many bytes they are; less than 0: it does not say."""

    at: int
    size: int


def _chunks(data: bytes, at: int, layout: _Layout) -> Iterator[tuple[bytes, _Chunk]]:
    """The chunks from a byte on, by name, as far as one leads to the next."""
    header = layout.name_bytes + struct.calcsize(layout.size)
    while at + header <= len(data):
        (size,) = struct.unpack_from(layout.size, data, at + layout.name_bytes)
        body = size - header if layout.counts_header else size
        yield data[at : at + layout.name_bytes], _Chunk(at + header, body)
        if body < 0:
            return
        at += header + body + -(header + body) % layout.align


def _check_end(at: int, num_bytes: int, total_bytes: int) -> None:
    if at + num_bytes > total_bytes:
        there = max(0, total_bytes - at)
        raise ClipRefused("truncated", f"{there} of the {num_bytes} bytes that it declares")


def caf(data: bytes, total_bytes: int) -> Declared:
    """Core Audio: what the samples are, the samples, and before or behind them the sizes of their
    packets where these differ. Samples of a size of -1 go on to the end of the file."""
    chunks = dict(_chunks(data, 8, CAF))
    if b"desc" not in chunks:
        return Declared()  # FFmpeg refuses it
    form = struct.unpack_from(">d4s5I", data, chunks[b"desc"].at)
    rate, packet_bytes, packet_samples, channels = form[0], *form[3:6]
    rate_hz = int(rate) if 0 <= rate < 1 << 31 else 0
    samples, table = chunks.get(b"data"), chunks.get(b"pakt", _Chunk(0, 0))
    _check_end(table.at, table.size, total_bytes)
    if samples is None:
        return Declared(rate_hz, channels)
    at, num_bytes = samples.at + 4, samples.size - 4  # a count of edits stands before them
    if samples.size < 0:
        num_bytes = (packet_samples and _packets(data, table)) or total_bytes - at
    _check_end(at, num_bytes, total_bytes)
    if packet_samples != 1 or not packet_bytes:  # FFmpeg knows what of its packets is not heard
        return Declared(rate_hz, channels)
    return Declared(rate_hz, channels, num_bytes // packet_bytes)


def _packets(data: bytes, table: _Chunk) -> int:
    """Bytes of all packets of a Core Audio table, behind its totals: in numbers of 7 bits a byte;
    none where all packets are alike."""
    total = number = 0
    for byte in data[table.at + 24 : table.at + table.size]:
        number = (number << 7 | byte & 0x7F) % NO_LONG_SIZE
        if byte < 0x80:
            total, number = total + number, 0
    return total


def w64(data: bytes, total_bytes: int) -> Declared:
    """Wave64: a WAV whose names have 16 bytes and whose sizes have 8."""
    chunks = dict(_chunks(data, 40, W64))
    form, samples = chunks.get(b"fmt " + W64_TAIL), chunks.get(b"data" + W64_TAIL)
    if form is None or samples is None:
        return Declared()
    codec, channels, rate_hz, _, packet_bytes = struct.unpack_from("<HHIIH", data, form.at)
    if not 0 <= samples.size < NO_LONG_SIZE:
        return Declared(rate_hz, channels)
    _check_end(samples.at, samples.size, total_bytes)
    if codec not in SNDFILE_WAV_CODECS or not packet_bytes:  # others pack samples into blocks
        return Declared(rate_hz, channels)
    return Declared(rate_hz, channels, samples.size // packet_bytes)


def aiff(data: bytes, total_bytes: int) -> Declared:
    samples = dict(_chunks(data, 12, IFF)).get(b"SSND")
    if samples is not None and samples.size not in NO_SIZES:
        _check_end(samples.at, samples.size, total_bytes)
    return Declared()


def au(data: bytes, total_bytes: int) -> Declared:
    at, size = struct.unpack_from(">II", data, 4)
    if size not in NO_SIZES:
        _check_end(at, size, total_bytes)
    return Declared()


def avi(data: bytes, total_bytes: int) -> Declared:
    """A RIFF chunk, behind which large files have others."""
    for name, chunk in _chunks(data, 0, RIFF):
        if name == b"RIFF" and chunk.size not in NO_SIZES:
            _check_end(chunk.at, chunk.size, total_bytes)
    return Declared()


def asf(data: bytes, total_bytes: int) -> Declared:
    """It says how large the file is, unless it was sent as it was made."""
    found = dict(_chunks(data, 30, ASF)).get(ASF_FILE)
    if found is not None:
        file_bytes = struct.unpack_from("<Q", data, found.at + 16)[0]
        is_live = struct.unpack_from("<I", data, found.at + 64)[0] & ASF_IS_LIVE
        if not is_live:
            _check_end(0, file_bytes, total_bytes)
    return Declared()


def flv(data: bytes, total_bytes: int) -> Declared:
    """Tags behind a header (Adobe, 2008, annex E), each with 11 bytes before it and 4 behind. The
    first one says how large the file is, where a program could go back to fill that in."""
    if (said := data.find(FLV_SIZE)) >= 0:
        file_bytes = struct.unpack_from(">d", data, said + len(FLV_SIZE))[0]
        if 0 <= file_bytes < NO_LONG_SIZE:
            _check_end(0, int(file_bytes), total_bytes)
    at = int.from_bytes(data[5:9], "big") + 4
    while at + 11 <= len(data):
        at += 11 + int.from_bytes(data[at + 1 : at + 4], "big") + 4
    if at - 4 > total_bytes or at < total_bytes == len(data):
        raise ClipRefused("truncated", "the last tag is cut")
    return Declared()


def mp4(data: bytes, total_bytes: int) -> Declared:
    """The chain of top-level boxes (ISO 14496-12, section 4.2) must end with the file."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:  # to the end of the file
            return Declared()
        if size < 8 or at + size > total_bytes:
            raise ClipRefused("truncated", f"the box at byte {at} ends behind the file")
        at += size
    return Declared()


def matroska(data: bytes, total_bytes: int) -> Declared:
    """The segment (RFC 8794, section 6; RFC 9559) must end with the file, if it has a size."""
    header_size, at = _ebml_number(data, 4)
    segment_size, at = _ebml_number(data, at + header_size + 4)
    if segment_size != UNKNOWN_SEGMENT and at + segment_size > total_bytes:
        there = total_bytes - at
        raise ClipRefused("truncated", f"{there} of {segment_size} bytes of its segment")
    return Declared()


def _ebml_number(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    length = 9 - data[at].bit_length()
    number = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return number, at + length
