"""From an audio file to all that is stored of a clip: frames, audio, and what the file was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from configs.frames import FramesConfig
from configs.schema import AudioConfig
from pipeline.audio.decode import AudioFile, decode
from pipeline.audio.encode import flac_bytes
from pipeline.audio.frames import frames_of
from pipeline.audio.limits import Window

FramesTM = npt.NDArray[np.float16]


@dataclass(frozen=True)
class ClipFacts:
    """What a clip's file was and how much came out of it."""

    decoder: str
    container: str
    source_rate_hz: int
    source_channels: int
    source_samples: int  # a channel
    num_samples: int  # mono, at the configured rate


@dataclass(frozen=True)
class Clip:
    """A clip that decoded: frames as stored, FLAC bytes (empty unless asked for), and facts."""

    frames_TM: FramesTM
    flac: bytes
    facts: ClipFacts


def make_clip(file: AudioFile, window: Window, audio: AudioConfig, frames: FramesConfig) -> Clip:
    """Decode a file into frames [T, M] float16 and, where the audio tars hold FLAC, its bytes.

    Raises ClipRefused.
    """
    decoded = decode(file, audio, window)
    waveform_N, rate_hz = decoded.waveform_N, audio.sample_rate_hz
    return Clip(
        frames_TM=frames_of(waveform_N, rate_hz, frames).astype(np.float16),
        flac=flac_bytes(waveform_N, rate_hz) if audio.store == "flac" else b"",
        facts=ClipFacts(
            decoder=decoded.decoder,
            container=decoded.container,
            source_rate_hz=decoded.source_rate_hz,
            source_channels=decoded.source_channels,
            source_samples=decoded.source_samples,
            num_samples=len(waveform_N),
        ),
    )
