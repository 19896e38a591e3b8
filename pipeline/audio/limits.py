"""What a clip may be: the stretch of a file that it is, and the bounds on what a file may claim.

Shared by the decoders, so that all refuse the same things with the same words.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.audio.refusal import ClipRefused

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
MAX_CHANNELS = 32

SamplesNC = npt.NDArray[np.float32]
WaveformN = npt.NDArray[np.float32]
Source = str | io.BytesIO  # a path, or the bytes of a whole file


@dataclass(frozen=True)
class Window:
    """The stretch of a file that is the clip, in seconds (`end_s` None: to its end), and how
    long a clip may be."""

    start_s: float = 0.0
    end_s: float | None = None
    max_clip_s: float = 60.0

    def start(self, rate_hz: int) -> int:
        return round(self.start_s * rate_hz)

    def wanted(self, promised: int | None, rate_hz: int) -> int | None:
        """Samples of the window, as far as a file of `promised` samples has them; None: unknown."""
        end = promised
        if self.end_s is not None:
            end = round(self.end_s * rate_hz)
            end = end if promised is None else min(end, promised)
        return None if end is None else max(0, end - self.start(rate_hz))


WHOLE = Window()


@dataclass(frozen=True)
class Samples:
    """What a decoder returned for a window, mixed to mono (full scale 1), and how many samples
    the file promised there (None: it does not say)."""

    mono_N: WaveformN
    channels: int
    rate_hz: int
    promised: int | None
    decoder: str


@dataclass(frozen=True)
class Declared:
    """Sample rate, channels and samples a channel that a header promises; None: not said."""

    rate_hz: int | None = None
    channels: int | None = None
    samples: int | None = None


def check_stream(rate_hz: int, channels: int) -> None:
    """Raises ClipRefused for a sample rate or number of channels that no recording has."""
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise ClipRefused("bad_rate", f"{rate_hz} Hz")
    if channels > MAX_CHANNELS:
        raise ClipRefused("too_many_channels", f"{channels} channels, over {MAX_CHANNELS}")


def check_length(num_samples: int | None, rate_hz: int, window: Window) -> int:
    """The most samples to read: those promised, or one over the limit where nothing is promised.

    Raises ClipRefused("too_long") above `max_clip_s`.
    """
    most = int(window.max_clip_s * rate_hz)
    if num_samples is None:
        return most + 1
    if num_samples > most:
        seconds = f"{num_samples / rate_hz:.1f} s"
        raise ClipRefused("too_long", f"{seconds}, over source.max_clip_s={window.max_clip_s:g}")
    return num_samples
