"""Frame headers of FLAC (RFC 9639, section 9.1), to check STREAMINFO against.

The header of a file has no checksum, but every frame repeats what it is about: its rate, its
channels, and where it stands. One flipped bit in STREAMINFO would change the pitch of a clip, or
cut it off, and libsndfile would not say a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.audio.sniff import id3_bytes

FIXED, VARIABLE = b"\xff\xf8", b"\xff\xf9"  # the sync code, and how frames are numbered
MAX_HEADER_BYTES = 16
TAIL_BYTES = 1 << 20  # where the last frame's header is looked for
RATES_HZ = (None, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
EXTRA_OF_SIZE, EXTRA_OF_RATE = {6: 1, 7: 2}, {12: 1, 13: 2, 14: 2}  # bytes, where no code fits
SAMPLE_BITS = (None, 8, 12, None, 16, 20, 24, 32)


@dataclass(frozen=True)
class FrameHeader:
    """What a frame says of itself (None: see STREAMINFO); `number` counts frames, or samples in
    streams of variable block size."""

    samples: int
    rate_hz: int | None
    channels: int
    bits: int | None
    number: int


def first_frame(data: bytes, at: int) -> int:
    """The byte where the frames begin (or would), from the byte of the first metadata block."""
    is_last = False
    while not is_last and at + 4 <= len(data):
        is_last = bool(data[at] & 0x80)
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    return at


def end_candidates(data: bytes, first: FrameHeader, start: int) -> Iterator[int]:
    """Samples at the end of what looks like a frame, the last one of the file first.

    A few bytes in a thousand files look like a header by chance, checksum and all: trust one that
    other facts agree with.
    """
    sync = data[start : start + 2]
    lowest, at = max(start, len(data) - TAIL_BYTES), len(data)
    while (at := data.rfind(sync, lowest, at + 1)) >= 0:
        frame = read_header(data, at)
        if frame is not None and _is_alike(frame, first):
            is_fixed = sync == FIXED
            yield frame.number * (first.samples if is_fixed else 1) + frame.samples
        at -= 1


def first_missing(data: bytes, num_samples: int) -> int | None:
    """The first sample that no frame begins at, of a file whose frames should be one unbroken
    chain; None if it is one.

    Not for streams as encoders before 2007 wrote them (blocks of several sizes, numbered as if of
    one): None.
    """
    at = id3_bytes(data) + 4
    smallest, largest = (int.from_bytes(data[at + 4 + i : at + 6 + i], "big") for i in (0, 2))
    place = first_frame(data, at)
    first, sync = read_header(data, place), data[place : place + 2]
    if first is None or (sync == FIXED and smallest != largest):
        return None
    unit = largest if sync == FIXED else 1
    sample = 0
    while sample < num_samples and place >= 0:
        frame = read_header(data, place)
        if frame is not None and _is_alike(frame, first) and frame.number * unit == sample:
            sample += frame.samples
        place = data.find(sync, place + 1)
    return sample if sample < num_samples else None


def _is_alike(frame: FrameHeader, first: FrameHeader) -> bool:
    mine, its = ((f.rate_hz, f.channels, f.bits) for f in (frame, first))
    return mine == its


def read_header(data: bytes, at: int) -> FrameHeader | None:
    """The frame header at a byte, None where there is none, or its checksum fails."""
    head = data[at : at + MAX_HEADER_BYTES]
    if len(head) < 6 or head[:2] not in (FIXED, VARIABLE):
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 15
    channel_code, bits_code = head[3] >> 4, head[3] >> 1 & 7
    number, used = _coded_number(head[4:])
    end = 4 + used + EXTRA_OF_SIZE.get(size_code, 0) + EXTRA_OF_RATE.get(rate_code, 0)
    if 0 in (size_code, used) or rate_code == 15 or channel_code > 10 or len(head) <= end:
        return None
    if _crc8(head[:end]) != head[end]:
        return None
    return FrameHeader(
        _block_size(size_code, head[4 + used :]),
        RATES_HZ[rate_code] if rate_code < len(RATES_HZ) else _rate(rate_code, head, end),
        channel_code + 1 if channel_code < 8 else 2,
        SAMPLE_BITS[bits_code],
        number,
    )


def _block_size(code: int, rest: bytes) -> int:
    if code == 1:
        return 192
    if code < 6:
        return 576 << (code - 2)
    if code < 8:
        return int.from_bytes(rest[: code - 5], "big") + 1
    return 1 << code


def _rate(code: int, head: bytes, end: int) -> int:
    if code == 12:
        return head[end - 1] * 1000
    value = int.from_bytes(head[end - 2 : end], "big")
    return value if code == 13 else value * 10


def _coded_number(data: bytes) -> tuple[int, int]:
    """A number in the way of UTF-8, up to 36 bits, and its length; length 0 for none."""
    ones = 8 - (~data[0] & 0xFF).bit_length()
    if ones == 0:
        return data[0], 1
    if ones == 1 or ones == 8 or len(data) < ones:
        return 0, 0
    number = data[0] & (0x7F >> ones)
    for byte in data[1:ones]:
        if byte >> 6 != 2:
            return 0, 0
        number = number << 6 | byte & 0x3F
    return number, ones


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = CRC8[crc ^ byte]
    return crc


def _crc8_of(byte: int) -> int:
    """Polynomial 0x07, most significant bit first."""
    for _ in range(8):
        byte = (byte << 1 ^ (0x07 if byte & 0x80 else 0)) & 0xFF
    return byte


CRC8 = tuple(map(_crc8_of, range(256)))
