"""From the bytes of an audio file to a mono waveform at one sample rate, or a refusal.

libsndfile decodes WAV, FLAC, Ogg Vorbis and MP3; FFmpeg, through PyAV, everything else. What came
out is compared with what the file declares: no decoder reports every damage.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soxr

from configs.schema import AudioConfig
from pipeline.audio import sndfile
from pipeline.audio.declared import declared
from pipeline.audio.limits import (
    WHOLE,
    Declared,
    Samples,
    Source,
    WaveformN,
    Window,
    check_stream,
)
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sniff import Format, sniff

RESAMPLER = "soxr HQ"
MAX_PEAK = 1e6  # of full scale; float files may exceed 1, but not by 120 dB


@dataclass(frozen=True)
class AudioFile:
    """An audio file in memory; or its beginning and where it lies, if it is too large for that."""

    data: bytes
    path: str | None = None
    total_bytes: int | None = None

    @property
    def source(self) -> Source:
        return io.BytesIO(self.data) if self.path is None else self.path

    @property
    def format(self) -> Format:
        """Raises ClipRefused for bytes of no known format."""
        if not self.data:
            raise ClipRefused("empty", "0 bytes")
        found = sniff(self.data)
        if found is None:
            raise ClipRefused("unknown_format", f"it starts with {self.data[:8].hex(' ')}")
        return found

    def declared(self) -> Declared:
        """What its headers promise; raises ClipRefused where they show that bytes are missing."""
        return declared(self.data, self.format, self.total_bytes or len(self.data))


@dataclass(frozen=True)
class Decoded:
    """A usable clip: float32 mono at the configured rate, full scale 1 (which resampling, and
    float files, may exceed), and what the file was."""

    waveform_N: WaveformN
    decoder: str
    container: str
    source_rate_hz: int
    source_channels: int
    source_samples: int  # a channel, in the clip's window


def decode(file: AudioFile, config: AudioConfig, window: Window = WHOLE) -> Decoded:
    """Decode to mono, check and resample one clip.

    Raises ClipRefused with one of the reasons of `pipeline.audio.refusal`.
    """
    samples = read(file, window)
    num_samples = len(samples.mono_N)
    if samples.promised is not None and num_samples < samples.promised:
        raise ClipRefused("truncated", f"{num_samples} of {samples.promised} samples came out")
    if num_samples == 0:
        raise ClipRefused("no_samples", "no audio in it, or none in the clip's window")
    _check_samples(samples.mono_N, config)
    return Decoded(
        waveform_N=resample(samples.mono_N, samples.rate_hz, config.sample_rate_hz),
        decoder=samples.decoder,
        container=file.format.name,
        source_rate_hz=samples.rate_hz,
        source_channels=samples.channels,
        source_samples=num_samples,
    )


def read(file: AudioFile, window: Window = WHOLE) -> Samples:
    """A window of a file in mono, as it is: at its own rate, and not yet checked.

    Raises ClipRefused where its decoder gives up, or its headers are no audio.
    """
    promise, demuxer = file.declared(), file.format.demuxer
    if promise.rate_hz is not None and promise.channels is not None:
        check_stream(promise.rate_hz, promise.channels)
    if demuxer is None:
        return sndfile.read(file.source, promise.samples, window)
    from pipeline.audio import ffmpeg  # a library that most data sets never need

    return ffmpeg.read(file.source, demuxer, promise.samples, window)


def declared_seconds(file: AudioFile) -> float | None:
    """The duration that a file declares, None where it does not say; decodes nothing.

    Raises ClipRefused where even the headers are no audio.
    """
    promise = file.declared()
    if promise.samples is not None and promise.rate_hz:
        return promise.samples / promise.rate_hz
    if file.format.demuxer is None:
        return sndfile.seconds(file.source)
    from pipeline.audio import ffmpeg

    return ffmpeg.seconds(file.source, file.format.demuxer)


def resample(waveform_N: WaveformN, from_hz: int, to_hz: int) -> WaveformN:
    """soxr at quality HQ; within 0.06 dB (99 % of mel cells) of VHQ, at 70 % of its price."""
    if from_hz == to_hz:
        return waveform_N
    return np.asarray(soxr.resample(waveform_N, from_hz, to_hz, quality="HQ"), dtype=np.float32)


def _check_samples(mono_N: WaveformN, config: AudioConfig) -> None:
    low, high = float(mono_N.min()), float(mono_N.max())
    peak = max(-low, high)
    if not peak <= MAX_PEAK:  # also where it is NaN
        raise ClipRefused("not_finite", f"samples that are no audio: peak {peak:.3g} of full scale")
    if peak < config.min_peak:
        raise ClipRefused("silent", f"peak {peak:.2g} of full scale, below {config.min_peak:.2g}")
    if low == high:
        raise ClipRefused("constant", f"all {len(mono_N)} samples are {low:.3g}")
