"""FFmpeg's decoders, through PyAV: MP4, Opus, WebM, AIFF and whatever libsndfile leaves.

The demuxer is named, never guessed, and may open nothing but the bytes that it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

import av
import numpy as np
from av.codec.context import Flags2

from pipeline.audio.limits import (
    Samples,
    SamplesNC,
    Source,
    WaveformN,
    Window,
    check_length,
    check_stream,
)
from pipeline.audio.mono import to_mono
from pipeline.audio.refusal import ClipRefused

av.logging.set_level(None)
OPTIONS = {"protocol_whitelist": "file", "enable_drefs": "0"}
USUAL_FRAME = 1024  # samples, of a lossy codec that does not say
OFFSET_AND_SCALE = {
    "u1": (128.0, 2.0**7),
    "i2": (0.0, 2.0**15),
    "i4": (0.0, 2.0**31),
}
# No length, or a wrong one: of frames without a total FFmpeg guesses it from the bit rate, AVI's is
# rounded up to its packets, and ASF's has what players are to wait for before they begin.
GUESSING_DEMUXERS = ("aac", "ac3", "amr", "asf", "avi")


def seconds(source: Source, demuxer: str) -> float | None:
    """The duration that the container declares."""
    with _opened(source, demuxer) as (container, stream):
        return _declared_s(container, stream)


def read(source: Source, demuxer: str, promised: int | None, window: Window) -> Samples:
    """Decode from the start of the first audio stream to the end of the window.

    `promised` is the stream's exact length where its container tells it. Else FFmpeg's duration
    counts, as exactly as it is meant: what comes out beyond it is padding. Raises
    ClipRefused where FFmpeg gives up, a packet is cut (of samples that are counted, FFmpeg makes up
    the packets: a short one at the end is no damage), or there is more audio than `max_clip_s`.
    """
    with _opened(source, demuxer) as (container, stream):
        rate_hz, channels = stream.rate, stream.channels
        check_stream(rate_hz, channels)
        is_counted, end = promised is not None, None
        if promised is None and demuxer not in GUESSING_DEMUXERS:
            promised, end = _promised(container, stream)
        wanted, start = window.wanted(promised, rate_hz), window.start(rate_hz)
        check_length(wanted, rate_hz, window)
        ends = (end, None if window.end_s is None else round(window.end_s * rate_hz))
        most = start + check_length(None, rate_hz, window)
        stop = min(end for end in (most, *ends) if end is not None)
        mono_N = _decode(container, stream, start, stop, is_counted)
    check_length(len(mono_N), rate_hz, window)
    return Samples(mono_N, channels, rate_hz, wanted, "FFmpeg")


@contextmanager
def _opened(
    source: Source, demuxer: str
) -> Iterator[tuple[av.container.InputContainer, av.AudioStream]]:
    try:
        with av.open(
            source, "r", format=demuxer, options=OPTIONS, metadata_errors="replace"
        ) as container:
            if not container.streams.audio:
                raise ClipRefused("no_samples", "no audio stream")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise ClipRefused("unreadable", "a codec that FFmpeg does not know")
            stream.codec_context.thread_count = 1
            if demuxer == "caf" and not _is_lossy(stream):
                # The rest of a last frame that is short anyway would be taken off once more.
                stream.codec_context.flags2 |= Flags2.skip_manual
            if not stream.rate or not stream.channels:
                raise ClipRefused("unreadable", "no sample rate or no channels")
            yield container, stream
    except av.FFmpegError as error:
        raise ClipRefused("unreadable", error.strerror or type(error).__name__) from None


def _declared_s(container: av.container.InputContainer, stream: av.AudioStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1e6


def _promised(
    container: av.container.InputContainer, stream: av.AudioStream
) -> tuple[int | None, int | None]:
    """The fewest samples and the most that a stream holds by its container's duration."""
    declared_s = _declared_s(container, stream)
    if declared_s is None:
        return None, None
    samples = round(declared_s * stream.rate)
    tick = _tick_samples(stream)
    most = samples if _is_lossy(stream) else samples + tick
    return max(0, samples - tick - _frame_samples(container, stream)), most


def _tick_samples(stream: av.AudioStream) -> int:
    """How far a duration may be off because the container's clock is coarser than samples:
    Matroska counts milliseconds."""
    return 0 if stream.time_base is None else max(0, ceil(stream.time_base * stream.rate) - 1)


def _frame_samples(container: av.container.InputContainer, stream: av.AudioStream) -> int:
    """Samples that may be missing at the ends: a frame of a lossy codec, and of any in Core Audio,
    where FFmpeg's own files, up to its version 5, count a short last frame as a whole one."""
    is_exact = not _is_lossy(stream) and container.format.name != "caf"
    return 0 if is_exact else max(stream.codec_context.frame_size, USUAL_FRAME)


def _is_lossy(stream: av.AudioStream) -> bool:
    codec = stream.codec_context.codec
    return codec.lossy and not codec.lossless


def _decode(
    container: av.container.InputContainer,
    stream: av.AudioStream,
    start: int,
    stop: int,
    is_counted: bool,
) -> WaveformN:
    """The samples, mixed to mono, from `start` up to `stop`.

    All before them are decoded, too, and dropped: after a seek, lossy codecs would not give the
    same samples.
    """
    declared = stream.rate, stream.channels  # these follow the decoder, so before it starts
    parts: list[WaveformN] = []
    at = first = 0
    for packet in container.demux(stream):
        if packet.is_corrupt and not is_counted:
            raise ClipRefused("truncated", f"a packet after {at} samples is cut")
        for frame in packet.decode():
            if (frame.sample_rate, frame.layout.nb_channels) != declared:
                raise ClipRefused("unreadable", f"rate or channels change after {at} samples")
            if at + frame.samples > start:
                first = at if not parts else first
                parts.append(to_mono(_samples(frame)))
            at += frame.samples
        if at >= stop:
            break
    if not parts:
        return np.empty(0, dtype=np.float32)
    return np.concatenate(parts)[start - first : stop - first]


def _samples(frame: av.AudioFrame) -> SamplesNC:
    """One frame as float32 [N, C] of full scale 1."""
    array = frame.to_ndarray()
    samples_NC = array.T if frame.format.is_planar else array.reshape(frame.samples, -1)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):  # what is no number is refused
            return samples_NC.astype(np.float32, copy=False)
    offset, scale = OFFSET_AND_SCALE[array.dtype.str[1:]]
    return ((samples_NC.astype(np.float64) - offset) / scale).astype(np.float32)
