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
MAX_PEAK = 1e6  # of full scale; float files may exceed 1, but not by 120 dB
UNDECLARED_FRAMES = 1 << 60  # libsndfile's word for a length that the file leaves open

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
    """A usable clip: float32 mono at the configured rate, full scale 1 (which resampling, and
    float files, may exceed), and what the file was."""

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
    mono_N = to_mono(samples_NC)
    peak = float(np.abs(mono_N).max())
    if not peak <= MAX_PEAK:  # also where it is NaN
        raise ClipRefused("not_finite", f"samples that are no audio: peak {peak:.3g} of full scale")
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


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A sound file that is read once, from start to end: soundfile would seek in it otherwise,
    and fails on FLAC that was written to a pipe and so declares no length."""

    def seekable(self) -> bool:
        return False


def _read(data: bytes, max_clip_s: float) -> tuple[npt.NDArray[np.float32], int]:
    """Samples [N, C] float32 and their rate; never more than one sample over `max_clip_s`."""
    try:
        with _ForwardFile(io.BytesIO(data)) as file:
            most = int(max_clip_s * file.samplerate)
            if most < file.frames < UNDECLARED_FRAMES:
                raise _too_long(f"{file.frames / file.samplerate:.1f} s", max_clip_s)
            samples_NC = file.read(min(file.frames, most + 1), dtype="float32", always_2d=True)
            rate_hz = file.samplerate
    except soundfile.LibsndfileError as error:
        raise ClipRefused("unreadable", error.error_string) from None
    if len(samples_NC) > most:
        raise _too_long("no declared length", max_clip_s)
    return samples_NC, rate_hz


def _too_long(what: str, max_clip_s: float) -> ClipRefused:
    return ClipRefused("too_long", f"{what}, over audio.max_clip_s={max_clip_s:g}")
