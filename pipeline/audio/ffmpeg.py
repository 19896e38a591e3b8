"""FFmpeg's decoders, through PyAV: MP4, Opus, WebM, AIFF and whatever libsndfile leaves.

The demuxer is named, never guessed, and may open nothing but the bytes that it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import av
import numpy as np

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
GUESSING_DEMUXERS = ("aac", "ac3", "amr")  # frames without a total: durations go by the bit rate


def seconds(source: Source, demuxer: str) -> float | None:
    """The duration that the container declares."""
    with _opened(source, demuxer) as (container, stream):
        return _declared_s(container, stream)


def read(source: Source, demuxer: str, promised: int | None, window: Window) -> Samples:
    """Decode from the start of the first audio stream to the end of the window.

    `promised` is the stream's exact length where its container tells it. Else FFmpeg's duration
    counts, but for one frame where the codec is lossy: what comes out beyond it is padding. Raises
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
    return max(0, samples - _frame_samples(stream)), samples


def _frame_samples(stream: av.AudioStream) -> int:
    """Samples that a codec may add or leave out at the ends: a frame where it is lossy."""
    context = stream.codec_context
    is_lossy = context.codec.lossy and not context.codec.lossless
    return max(context.frame_size, USUAL_FRAME) if is_lossy else 0


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
        return samples_NC.astype(np.float32, copy=False)
    offset, scale = OFFSET_AND_SCALE[array.dtype.str[1:]]
    return ((samples_NC.astype(np.float64) - offset) / scale).astype(np.float32)
