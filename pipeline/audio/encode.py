"""From a waveform to the bytes of an audio file."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from pipeline.audio.limits import WaveformN


def flac_bytes(waveform_N: WaveformN, sample_rate_hz: int) -> bytes:
    """A mono 16-bit FLAC file; samples beyond full scale are clipped, not wrapped."""
    buffer = io.BytesIO()
    clipped_N = np.clip(waveform_N, -1.0, 1.0)
    soundfile.write(buffer, clipped_N, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
