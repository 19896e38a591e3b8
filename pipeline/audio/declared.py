"""What a file says about itself, read from its headers before anything is decoded.

No decoder reports every damage: libsndfile returns what is left of a cut MP3 or WAV without a
word. So the length that the container promises is read here and compared with what came out.
Sources of the formats: RIFF WAVE (Microsoft, 1994) and EBU Tech 3306 (RF64); RFC 9639 (FLAC);
RFC 3533 (Ogg) and the Vorbis I specification; ISO 11172-3 with the Xing and LAME tags (MP3);
ISO 13818-7 (ADTS); ATSC A/52 (AC-3).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from pipeline.audio import chunks
from pipeline.audio.flac_frames import (
    MAX_HEADER_BYTES,
    end_candidates,
    first_frame,
    read_header,
)
from pipeline.audio.limits import Declared, check_stream
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sniff import SNDFILE_WAV_CODECS, Format, id3_bytes, wav_codec

UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # what a WAV that was written to a pipe says of its length


def declared(data: bytes, found: Format, total_bytes: int) -> Declared:
    """What the headers of a file promise; nothing for formats that are not read here.

    Args:
        data: the file, or its beginning.
        found: its format.
        total_bytes: the file's size.

    Raises ClipRefused where the container itself shows that bytes are missing.
    """
    reader = READERS.get(found.name)
    if reader is None:
        return Declared()
    try:
        return reader(data, total_bytes)
    except (struct.error, IndexError):
        raise ClipRefused("truncated", "the header is cut") from None


def _wav(data: bytes, total_bytes: int) -> Declared:
    order = ">" if data[:4] == b"RIFX" else "<"
    at, rate_hz, channels, bytes_a_sample, long_bytes = 12, None, None, 0, None
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack_from(f"{order}I", data, at + 4)[0]
        if name == b"fmt " and at + 24 <= len(data):
            channels, rate_hz = struct.unpack_from(f"{order}HI", data, at + 10)
            if wav_codec(data) in SNDFILE_WAV_CODECS:  # others pack samples into blocks
                bytes_a_sample = struct.unpack_from(f"{order}H", data, at + 20)[0]
        elif name == b"ds64" and at + 24 <= len(data):
            long_bytes = struct.unpack_from("<Q", data, at + 16)[0]
        elif name == b"data":
            known = long_bytes if size == 0xFFFFFFFF else size
            num_bytes = None if known in (None, *UNKNOWN_SIZES) else known
            if num_bytes is not None and at + 8 + num_bytes > total_bytes:
                there = total_bytes - at - 8
                raise ClipRefused("truncated", f"{there} of {num_bytes} bytes of samples")
            if num_bytes is None or not bytes_a_sample:
                return Declared(rate_hz, channels)
            return Declared(rate_hz, channels, num_bytes // bytes_a_sample)
        at += 8 + size + size % 2
    riff_bytes = struct.unpack_from(f"{order}I", data, 4)[0]
    is_whole = at == total_bytes and riff_bytes + 8 in (total_bytes, 8, 0xFFFFFFFF + 8)
    raise ClipRefused("no_samples" if is_whole else "truncated", "no chunk of samples")


def _flac(data: bytes, total_bytes: int) -> Declared:
    at = id3_bytes(data) + 4
    if data[at] & 0x7F or len(data) < at + 22:
        raise ClipRefused("unreadable", "no STREAMINFO at the start")
    packed = int.from_bytes(data[at + 14 : at + 22], "big")
    samples = packed & 0xFFFFFFFFF
    promise = Declared(packed >> 44, (packed >> 41 & 7) + 1, samples or None)
    _check_flac_frames(promise, data, at, total_bytes)
    return promise


def _check_flac_frames(promise: Declared, data: bytes, at: int, total_bytes: int) -> None:
    """Raises ClipRefused where STREAMINFO is not what the frames say; libsndfile reports cuts."""
    check_stream(promise.rate_hz or 0, promise.channels or 0)
    start = first_frame(data, at)
    first = read_header(data, start)
    if first is None:
        if start + MAX_HEADER_BYTES < len(data):
            raise ClipRefused("unreadable", f"no FLAC frame at byte {start}")
        return
    if (first.rate_hz or promise.rate_hz, first.channels) != (promise.rate_hz, promise.channels):
        raise ClipRefused("unreadable", "STREAMINFO and frames differ in rate or channels")
    if len(data) < total_bytes or promise.samples is None:
        return
    ends = list(takewhile(lambda end: end != promise.samples, end_candidates(data, first, start)))
    if max(ends, default=0) > promise.samples:
        raise ClipRefused("unreadable", f"STREAMINFO says {promise.samples} samples, frames more")


def _ogg(data: bytes, total_bytes: int) -> Declared:
    rate_hz, channels = None, None  # of other codecs FFmpeg reads them
    if (at := data[:128].find(b"\x01vorbis")) >= 0:
        channels, rate_hz = struct.unpack_from("<BI", data, at + 11)
    if len(data) < total_bytes:
        return Declared(rate_hz, channels)
    pages = list(_ogg_pages(data))
    if len({page.serial for page in pages}) > 1:
        raise ClipRefused("unreadable", "several streams in one Ogg file")
    if not pages[-1].is_last:
        raise ClipRefused("truncated", "the stream ends without its last page")
    for number, page in enumerate(pages, start=pages[0].number):
        if page.number != number:
            raise ClipRefused("truncated", f"Ogg page {number} is missing")
    return Declared(rate_hz, channels, max(page.granule for page in pages) if rate_hz else None)


@dataclass(frozen=True)
class _Page:
    is_last: bool
    granule: int
    serial: int
    number: int


def _ogg_pages(data: bytes) -> Iterator[_Page]:
    """Pages one after another; raises ClipRefused where bytes that are no page stand between."""
    at = 0
    while at < len(data):
        if data[at : at + 4] != b"OggS" or at + 27 > len(data):
            raise ClipRefused("truncated", f"no Ogg page at byte {at}")
        flags, granule, serial, number = struct.unpack_from("<BqII", data, at + 5)
        segments = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + data[at + 26] + sum(segments)
        if end > len(data):
            raise ClipRefused("truncated", f"the Ogg page at byte {at} is cut")
        if _ogg_crc(data[at:end]) != int.from_bytes(data[at + 22 : at + 26], "little"):
            raise ClipRefused("unreadable", f"the Ogg page at byte {at} fails its checksum")
        yield _Page(bool(flags & 4), granule, serial, number)
        at = end


REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes) -> int:
    """The page's CRC: polynomial 0x04c11db7, most significant bit first, from 0, with its own
    field as zeros. That is zlib's, which goes from the other end, on mirrored bits."""
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(REVERSED)
    crc = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


# --- MP3 -------------------------------------------------------------------------------------

BITRATES_KBIT = {  # (MPEG 1?, layer) -> by index; ISO 11172-3, table 2.4.2.3, and 13818-3
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
TRAILERS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"\0\0\0")  # what may follow the last frame
SIDE_INFO_BYTES = {(True, True): 17, (True, False): 32, (False, True): 9, (False, False): 17}


@dataclass(frozen=True)
class _Mp3Frame:
    is_mpeg1: bool
    layer: int
    rate_hz: int
    is_mono: bool
    num_bytes: int

    @property
    def samples(self) -> int:
        if self.layer == 1:
            return 384
        return 1152 if self.is_mpeg1 or self.layer == 2 else 576


def _mp3(data: bytes, total_bytes: int) -> Declared:
    at = id3_bytes(data)
    if at >= len(data) and len(data) < total_bytes:  # a tag larger than what was read
        return Declared()
    first = _mp3_frame(data, at)
    if first is None:
        raise ClipRefused("unreadable", f"no MPEG audio frame at byte {at}")
    channels = 1 if first.is_mono else 2
    if len(data) < total_bytes:
        return Declared(first.rate_hz, channels)
    is_tag, promised, trimmed = _xing(data, at, first)
    if is_tag:
        at += first.num_bytes
    if at > len(data):
        raise ClipRefused("truncated", "MPEG audio frame 0 is cut")
    num_frames = _count_mp3_frames(data, at)
    if promised is not None and num_frames < promised:
        raise ClipRefused("truncated", f"{num_frames} of {promised} MPEG audio frames")
    return Declared(first.rate_hz, channels, num_frames * first.samples - trimmed)


def _mp3_frame(data: bytes, at: int) -> _Mp3Frame | None:
    """The frame whose header stands at a byte, None where there is none."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bitrate, rate, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer == 4 or rate == 3 or bitrate in (0, 15):
        return None
    is_mpeg1, rate_hz = version == 3, RATES_HZ[version][rate]
    bits_per_s = BITRATES_KBIT[is_mpeg1, layer][bitrate] * 1000
    if layer == 1:
        num_bytes = (12 * bits_per_s // rate_hz + padding) * 4
    else:
        num_bytes = (144 if is_mpeg1 or layer == 2 else 72) * bits_per_s // rate_hz + padding
    return _Mp3Frame(is_mpeg1, layer, rate_hz, data[at + 3] >> 6 == 3, num_bytes)


def _xing(data: bytes, at: int, frame: _Mp3Frame) -> tuple[bool, int | None, int]:
    """Whether the first frame is a tag, the frames that it promises, and the samples of encoder
    delay and padding that a decoder leaves out."""
    tag = at + 4 + SIDE_INFO_BYTES[frame.is_mpeg1, frame.is_mono]
    if data[tag : tag + 4] not in (b"Xing", b"Info"):
        return False, None, 0
    flags = int.from_bytes(data[tag + 4 : tag + 8], "big")
    promised = int.from_bytes(data[tag + 8 : tag + 12], "big") if flags & 1 else None
    lame = tag + 8 + 4 * bool(flags & 1) + 4 * bool(flags & 2) + 100 * bool(flags & 4)
    lame += 4 * bool(flags & 8)
    if not data[lame : lame + 9].strip(b"\0"):
        return True, promised, 0
    packed = int.from_bytes(data[lame + 21 : lame + 24], "big")
    return True, promised, (packed >> 12) + (packed & 0xFFF)


def _count_mp3_frames(data: bytes, at: int) -> int:
    """Frames from a byte to the end; raises ClipRefused where the chain of frames is broken."""
    count = 0
    while (frame := _mp3_frame(data, at)) is not None:
        if at + frame.num_bytes > len(data):
            raise ClipRefused("truncated", f"MPEG audio frame {count} is cut")
        at += frame.num_bytes
        count += 1
    rest = data[at:]
    if rest and not rest.startswith(TRAILERS) and len(rest) > 4:
        raise ClipRefused("truncated", f"no MPEG audio frame {count} at byte {at}")
    return count


ADTS_RATES_HZ = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)


def _adts(data: bytes, total_bytes: int) -> Declared:
    """AAC in ADTS (section 6.2): frames that say how long they are, and no total.

    What FFmpeg takes for its duration is a guess from its first frames.
    """
    if len(data) < total_bytes:
        detail = "ADTS does not say how long it is; put it into an MP4 file (ffmpeg -c copy)"
        raise ClipRefused("too_large", detail)
    at = start = id3_bytes(data)
    samples = 0
    while data[at : at + 1] == b"\xff" and at + 7 <= len(data):
        size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        if size < 7 or at + size > len(data):
            break
        samples += 1024 * ((data[at + 6] & 3) + 1)
        at += size
    if at < len(data) and not data[at:].startswith(TRAILERS):
        raise ClipRefused("truncated", f"no whole ADTS frame at byte {at}")
    rate = data[start + 2] >> 2 & 15
    if rate >= len(ADTS_RATES_HZ):
        raise ClipRefused("unreadable", "an ADTS frame without a sample rate")
    return Declared(ADTS_RATES_HZ[rate], None, samples)


AC3_KBIT = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)


def _ac3(data: bytes, total_bytes: int) -> Declared:
    """AC-3 and E-AC-3: frames that say how long they are, and no total; FFmpeg drops
    what is left of the last one."""
    at = 0
    while 0 < (size := _ac3_frame_bytes(data[at : at + 6])) <= len(data) - at:
        at += size
    if at < len(data) == total_bytes and not data[at:].startswith(TRAILERS):
        raise ClipRefused("truncated", f"no whole AC-3 frame at byte {at}")
    return Declared()


def _ac3_frame_bytes(header: bytes) -> int:
    """0 where there is no frame."""
    if len(header) < 6 or header[:2] != b"\x0b\x77":
        return 0
    if header[5] >> 3 > 10:  # the version of E-AC-3
        return 2 * (((header[2] & 7) << 8 | header[3]) + 1)
    rate, code = header[4] >> 6, header[4] & 63
    if rate == 3 or code >> 1 >= len(AC3_KBIT):
        return 0
    kbit = AC3_KBIT[code >> 1]
    return (4 * kbit, 2 * (320 * kbit // 147 + code % 2), 6 * kbit)[rate]


READERS: dict[str, Callable[[bytes, int], Declared]] = {
    "wav": _wav,
    "flac": _flac,
    "ogg": _ogg,
    "mp3": _mp3,
    "aac": _adts,
    "ac3": _ac3,
    "aiff": chunks.aiff,
    "asf": chunks.asf,
    "au": chunks.au,
    "avi": chunks.avi,
    "caf": chunks.caf,
    "flv": chunks.flv,
    "matroska": chunks.matroska,
    "mp4": chunks.mp4,
    "w64": chunks.w64,
}
