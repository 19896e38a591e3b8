"""A corpus of broken audio files, each with the reason that it must be refused with.

Everything is made from one good second of a chirp in noise: cut at every field of its header, with
bits flipped, with fields that lie, and with contents that are no audio.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
import soundfile

from configs.schema import AudioConfig
from pipeline.audio.decode import AudioFile, Decoded
from pipeline.audio.decode import decode as decode_file
from pipeline.audio.flac_frames import first_frame
from pipeline.audio.limits import WHOLE, Window

RATE_HZ = 22_050
SECONDS = 1.0


@dataclass(frozen=True)
class Broken:
    """One file: what was done to it, its name, its bytes, and the reason it must be refused
    with; for damage that several checks may find first, the reasons."""

    kind: str
    name: str
    data: bytes
    reason: str | tuple[str, ...]

    def is_reason(self, reason: str) -> bool:
        return reason in (self.reason if isinstance(self.reason, tuple) else (self.reason,))


DAMAGED = ("truncated", "unreadable")


def samples(channels: int = 1, rate_hz: int = RATE_HZ, seconds: float = SECONDS) -> np.ndarray:
    """A chirp in a little noise, [N, C] float32, peak 0.5."""
    time_s = np.arange(int(rate_hz * seconds)) / rate_hz
    noise = np.random.default_rng(5).normal(0, 0.01, (len(time_s), channels))
    chirp = 0.4 * np.sin(2 * np.pi * (200 + 400 * time_s) * time_s)
    return (chirp[:, None] + noise).astype(np.float32)


def encoded(
    kind: str, subtype: str, audio: np.ndarray | None = None, rate_hz: int = RATE_HZ
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples() if audio is None else audio, rate_hz, subtype, format=kind)
    return buffer.getvalue()


ID3V2 = b"ID3\x04\0\0\0\0\x27\x10" + bytes(0x27 << 7 | 0x10)  # a tag of 5 kB, of zeros


def muxed(
    container: str,
    codec: str,
    rate_hz: int = RATE_HZ,
    num_samples: int = RATE_HZ,
    **options: str,
) -> bytes:
    """One second, or as many samples of that rate, through one of FFmpeg's encoders."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate_hz)
        stream.layout = "mono"
        if codec == "wmav2":  # of the usual rate it makes nothing
            stream.bit_rate = 64_000
        audio_CN = chirp(1, RATE_HZ, num_samples).T.copy()
        frame = av.AudioFrame.from_ndarray(audio_CN, format="fltp", layout="mono")
        frame.sample_rate = RATE_HZ
        context = stream.codec_context
        resampler = av.AudioResampler(
            context.format.name, "mono", rate_hz, frame_size=context.frame_size or 1024
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def decode(data: bytes, window: Window = WHOLE, rate_hz: int = 22_050) -> Decoded:
    return decode_file(AudioFile(data), AudioConfig(sample_rate_hz=rate_hz), window)


def chirp(channels: int, rate_hz: int, num_samples: int) -> npt.NDArray[np.float32]:
    return samples(channels, rate_hz, (num_samples + 0.5) / rate_hz)[:num_samples]


def good() -> dict[str, bytes]:
    """The same second, whole, in every format; all of these decode."""
    return {
        "wav16": encoded("WAV", "PCM_16"),
        "wav24": encoded("WAV", "PCM_24"),
        "wavfloat": encoded("WAV", "FLOAT"),
        "wavex": encoded("WAVEX", "PCM_16"),
        "rf64": encoded("RF64", "PCM_16"),
        "flac16": encoded("FLAC", "PCM_16"),
        "flac24": encoded("FLAC", "PCM_24"),
        "vorbis": encoded("OGG", "VORBIS"),
        "mp3": encoded("MP3", "MPEG_LAYER_III"),
        "aiff": encoded("AIFF", "PCM_16"),
        "au": encoded("AU", "PCM_16"),
        "caf": encoded("CAF", "PCM_16"),
        "w64": encoded("W64", "PCM_16"),
        "adpcm": encoded("WAV", "MS_ADPCM"),
        "m4a": muxed("ipod", "aac", 44_100),
        "alac": muxed("ipod", "alac", 44_100),
        "opus": muxed("ogg", "libopus", 48_000),
        "webm": muxed("webm", "libopus", 48_000),
        "aac": muxed("adts", "aac", 44_100),
        "wavpack": muxed("wv", "wavpack"),
    }


def corpus() -> Iterator[Broken]:
    """All broken files; the same ones every time."""
    whole = good()
    yield from _not_audio()
    yield from _cut(whole)
    yield from _flipped(whole)
    yield from _zeroed(whole)
    yield from _lying_wav(whole["wav16"])
    yield from _lying_flac(whole["flac16"])
    yield from _bad_samples()
    yield from _too_much()


def _not_audio() -> Iterator[Broken]:
    rng = np.random.default_rng(11)
    texts = {
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "json": b'{"error": "video unavailable"}',
        "playlist": b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/never.ts\n",
        "ffconcat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "text": b"lorem ipsum " * 40,
        "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "zip": b"PK\x03\x04" + bytes(64),
        "gzip": b"\x1f\x8b\x08" + bytes(64),
        "pdf": b"%PDF-1.7\n" + bytes(64),
        "elf": b"\x7fELF" + bytes(64),
        "pickle": b"\x80\x04\x95" + bytes(64),
        "zeros": bytes(10_000),
        "ones": b"\xff" * 10_000,
        "blank": b" " * 1000,
    }
    for name, data in texts.items():
        reason = "unreadable" if name == "ones" else "unknown_format"
        yield Broken("no audio", f"{name}.flac", data, reason)
    for number in range(8):
        data = b"\x00" + rng.bytes(3000)
        yield Broken("random bytes", f"random{number}.wav", data, "unknown_format")
    yield Broken("empty", "empty.wav", b"", "empty")
    for number in range(1, 4):
        yield Broken("a few bytes", f"few{number}.wav", b"RIF"[:number], "unknown_format")


# Headers cut at their fields: what a file of so many bytes is refused with, if not as truncated.
HEADERS = {
    "wav16": {4: "unknown_format", 8: "unknown_format"},
    "flac16": dict.fromkeys((8, 12, 16, 20, 22, 24, 28, 32, 36, 40, 58, 60, 80), "unreadable"),
    "vorbis": {},
    "mp3": {},
    "m4a": {4: "unknown_format", **dict.fromkeys((28, 32, 36, 40, 42), "unreadable")},
    "webm": {},
    "aiff": {
        **dict.fromkeys((4, 8), "unknown_format"),
        **dict.fromkeys((12, 16, 20, 22, 24, 28, 32, 36, 40, 42, 44), "unreadable"),
    },
}
HEADER_SIZES = (4, 8, 12, 16, 20, 22, 24, 28, 32, 36, 40, 42, 44, 58, 60, 80)


def _cut(whole: dict[str, bytes]) -> Iterator[Broken]:
    for name, data in whole.items():
        reason = "unreadable" if name in ("flac16", "flac24") else "truncated"
        for share in (0.25, 0.5, 0.75, 0.95):
            cut = data[: int(len(data) * share)]
            yield Broken(f"{name} cut", f"{name}-{share}", cut, reason)
        if name != "wavpack":  # its last bytes are no samples
            yield Broken(f"{name} cut at its end", f"{name}-end", data[:-3], reason)
    for name, reasons in HEADERS.items():
        for size in HEADER_SIZES:
            reason, data = reasons.get(size, "truncated"), whole[name][:size]
            yield Broken(f"{name} header cut", f"{name}-head{size}", data, reason)


def _flipped(whole: dict[str, bytes]) -> Iterator[Broken]:
    rng = np.random.default_rng(17)
    for name in ("flac16", "flac24", "vorbis", "mp3", "opus", "m4a", "aac"):
        for number in range(4):
            data = bytearray(whole[name])
            for place in rng.integers(len(data) // 4, len(data), 64):
                data[place] ^= 1 << int(rng.integers(8))
            yield Broken(f"{name} bits flipped", f"{name}-flip{number}", bytes(data), DAMAGED)


def _zeroed(whole: dict[str, bytes]) -> Iterator[Broken]:
    for name in ("flac16", "flac24", "vorbis", "mp3", "opus", "m4a", "aac", "webm", "alac"):
        data = whole[name]
        middle, width = len(data) // 2, min(4096, len(data) // 4)
        hole = data[:middle] + bytes(width) + data[middle + width :]
        yield Broken(f"{name} with a hole", f"{name}-hole", hole, DAMAGED)
        headless = bytes(64) + data[64:]
        yield Broken(f"{name} without its start", f"{name}-nostart", headless, "unknown_format")


def _lying_wav(data: bytes) -> Iterator[Broken]:
    def with_field(at: int, form: str, value: int) -> bytes:
        changed = bytearray(data)
        struct.pack_into(form, changed, at, value)
        return bytes(changed)

    for rate_hz in (0, 1, 999, 4_000_000_000):
        yield Broken("wav rate", f"rate{rate_hz}.wav", with_field(24, "<I", rate_hz), "bad_rate")
    for channels in (33, 96, 255, 65_535):
        yield Broken(
            "wav channels", f"ch{channels}.wav", with_field(22, "<H", channels), "too_many_channels"
        )
    yield Broken("wav channels", "ch0.wav", with_field(22, "<H", 0), "unreadable")
    for size in (0x7FFFFFF0, 0xFFFFFFF0, len(data), len(data) * 1000):
        yield Broken("wav sizes", f"data{size}.wav", with_field(40, "<I", size), "truncated")
        yield Broken("wav sizes", f"fmt{size}.wav", with_field(16, "<I", size), "truncated")
    yield Broken("wav codec", "codec0.wav", with_field(20, "<H", 0), "unreadable")
    yield Broken("wav codec", "codec9999.wav", with_field(20, "<H", 9999), "unreadable")
    yield Broken("wav without samples", "nodata.wav", data[:36], "truncated")
    yield Broken("wav without samples", "nofmt.wav", data[:12] + data[36:], "unreadable")
    bare = bytearray(data[:44])
    struct.pack_into("<I", bare, 4, 36)
    struct.pack_into("<I", bare, 40, 0)
    yield Broken("wav without samples", "zero.wav", bytes(bare), "no_samples")


def _lying_flac(data: bytes) -> Iterator[Broken]:
    def with_info(rate_hz: int, channels: int, bits: int, total: int) -> bytes:
        packed = rate_hz << 44 | (channels - 1) << 41 | (bits - 1) << 36 | total
        return data[:18] + packed.to_bytes(8, "big") + data[26:]

    total = RATE_HZ
    yield Broken("flac rate", "rate0.flac", with_info(0, 1, 16, total), "bad_rate")
    yield Broken("flac rate", "rate900.flac", with_info(900, 1, 16, total), "bad_rate")
    hours = 10 * 3600 * RATE_HZ
    yield Broken("flac length", "tenhours.flac", with_info(RATE_HZ, 1, 16, hours), "too_long")
    for more in (1, 1000, 3 * RATE_HZ):
        name, lie = f"more{more}.flac", with_info(RATE_HZ, 1, 16, total + more)
        yield Broken("flac length", name, lie, "truncated")
    yield Broken("flac extension", "really.mp3", data[:2000], "unreadable")
    for number in (0, 1, 3):
        lacking = without_flac_frame(data, number)
        yield Broken("flac frame", f"frame{number}.flac", lacking, "truncated")


def without_flac_frame(data: bytes, number: int) -> bytes:
    """The file without one of its frames: each begins with its sync code, its sizes, its number
    (these are below 128) and a checksum."""
    sync = data[first_frame(data, 4) :][:4]
    begins = [data.index(sync + bytes([n])) for n in (number, number + 1)]
    return data[: begins[0]] + data[begins[1] :]


def _bad_samples() -> Iterator[Broken]:
    audio = samples()
    for value in (np.nan, np.inf, -np.inf, 1e30):
        bad = audio.copy()
        bad[1000] = value
        yield Broken("wild samples", f"{value}.wav", encoded("WAV", "FLOAT", bad), "not_finite")
    yield Broken("all NaN", "allnan.wav", encoded("WAV", "FLOAT", audio * np.nan), "not_finite")
    for level in (0.0, 1e-6, 5e-5):
        quiet = encoded("WAV", "FLOAT", audio * level)
        yield Broken("silence", f"silent{level}.wav", quiet, "silent")
    yield Broken("silence", "silent.flac", encoded("FLAC", "PCM_16", audio * 0), "silent")
    both = np.concatenate([audio, -audio], axis=1)
    yield Broken("silence", "opposed.wav", encoded("WAV", "FLOAT", both), "silent")
    for level in (0.5, -0.25):
        flat = encoded("WAV", "PCM_16", np.full_like(audio, level))
        yield Broken("one value", f"constant{level}.wav", flat, "constant")
    for count in (1, 2, 100, 512):
        short = encoded("WAV", "PCM_16", audio[:count])
        yield Broken(
            "too short", f"short{count}.wav", short, "constant" if count == 1 else "too_short"
        )
    for kind, subtype in (("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("CAF", "PCM_16")):
        nothing = encoded(kind, subtype, audio[:0])
        yield Broken("no samples", f"none.{kind}", nothing, "no_samples")


def _too_much() -> Iterator[Broken]:
    long = encoded("WAV", "PCM_U8", np.tile(samples(1, 8000), (61, 1)), 8000)
    yield Broken("too long", "61s.wav", long, "too_long")
    long = encoded("FLAC", "PCM_16", np.tile(samples(1, 8000), (61, 1)), 8000)
    yield Broken("too long", "61s.flac", long, "too_long")
    yield Broken(
        "too long",
        "61s.mp3",
        encoded("MP3", "MPEG_LAYER_III", np.tile(samples(1, 8000), (61, 1)), 8000),
        "too_long",
    )
    for channels in (33, 96):
        many = encoded("WAV", "PCM_16", samples(channels))
        yield Broken("many channels", f"{channels}ch.wav", many, "too_many_channels")
