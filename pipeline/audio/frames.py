"""From a waveform to the frames that are stored: one function a kind of frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.errors import ConfigError
from configs.frames import FbankFrames, FramesConfig
from pipeline.audio.fbank import fbank, fbank_filters, window_samples
from pipeline.audio.limits import WaveformN
from pipeline.audio.mel import log_mel, mel_filters, mfcc

SHOWN_FILTERS = 8

FramesTM = npt.NDArray[np.float32]

KINDS: dict[str, Callable[[WaveformN, int, Any], FramesTM]] = {
    "mel": log_mel,
    "mfcc": mfcc,
    "fbank": fbank,
}
FILTERS: dict[str, Callable[[int, Any], npt.NDArray[np.float64]]] = {
    "mel": mel_filters,
    "mfcc": mel_filters,
    "fbank": fbank_filters,
}


def frames_of(waveform_N: WaveformN, sample_rate_hz: int, config: FramesConfig) -> FramesTM:
    """The frames [T, M] float32 of a mono waveform; raises ClipRefused("too_short")."""
    return KINDS[config.kind](waveform_N, sample_rate_hz, config)


def most_samples(num_frames: int, sample_rate_hz: int, config: FramesConfig) -> int:
    """Samples of the longest waveform that has no more frames than that."""
    fewest = window_samples(sample_rate_hz, config) if isinstance(config, FbankFrames) else 0
    return fewest + num_frames * config.hop_samples(sample_rate_hz) - 1


def check_filters(sample_rate_hz: int, config: FramesConfig) -> None:
    """Raises ConfigError where a filter is so narrow that it catches no bin of the transform: its
    column would hold the floor in every frame of every clip."""
    filters_MF = FILTERS[config.kind](sample_rate_hz, config)
    empty = np.flatnonzero(filters_MF.sum(axis=1) == 0).tolist()
    if not empty or config.allow_empty_filters:
        return
    shown = ", ".join(map(str, empty[:SHOWN_FILTERS])) + (" ..." if empty[SHOWN_FILTERS:] else "")
    spacing_hz = sample_rate_hz / 2 / (filters_MF.shape[1] - 1)
    raise ConfigError(
        "frames",
        [
            f"{len(empty)} of {len(filters_MF)} filters catch no bin ({shown}): bins are "
            f"{spacing_hz:.1f} Hz apart. Ask for fewer mels or a longer window, or set "
            "frames.allow_empty_filters=true"
        ],
    )
