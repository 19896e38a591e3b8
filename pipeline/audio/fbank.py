"""Kaldi's log filter banks, as the Audio Spectrogram Transformer takes them.

Equal to torchaudio.compliance.kaldi.fbank with dither 0, energies off, HTK-compatible mel scale
and frames that do not run over the edges; natural logarithm of power.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy  # its parts load when used: not in workers and drivers, whose child decodes

from configs.frames import FbankFrames
from pipeline.audio.limits import WaveformN
from pipeline.audio.refusal import ClipRefused

EPSILON = np.finfo(np.float32).eps  # the floor of an energy, Kaldi's

FramesTM = npt.NDArray[np.float32]


def fbank(waveform_N: WaveformN, sample_rate_hz: int, config: FbankFrames) -> FramesTM:
    """Log filter-bank frames [T, M] float32, T = 1 + (N - window) // hop.

    Raises ClipRefused("too_short") for less than one window.
    """
    window = window_samples(sample_rate_hz, config)
    if len(waveform_N) < window:
        detail = f"{len(waveform_N)} samples; a window needs {window}"
        raise ClipRefused("too_short", detail)
    windows_TW = np.lib.stride_tricks.sliding_window_view(waveform_N, window)
    frames_TW = windows_TW[:: config.hop_samples(sample_rate_hz)]
    frames_TW = frames_TW - frames_TW.mean(axis=1, keepdims=True)
    before_TW = np.concatenate([frames_TW[:, :1], frames_TW[:, :-1]], axis=1)
    frames_TW = (frames_TW - np.float32(config.preemphasis) * before_TW) * _window(window, config)
    spectrum_TF = scipy.fft.rfft(frames_TW, n=_fft_size(window), axis=1)
    power_TF = spectrum_TF.real**2 + spectrum_TF.imag**2
    mel_TM = (_matrix(sample_rate_hz, config) @ power_TF.T).T
    return np.ascontiguousarray(np.log(np.maximum(mel_TM, EPSILON)), dtype=np.float32)


def fbank_filters(sample_rate_hz: int, config: FbankFrames) -> npt.NDArray[np.float64]:
    """Triangles [M, F] that are straight on Kaldi's mel scale, 1127 ln(1 + f / 700).

    Unlike HTK's they are triangles in mel, not in Hz; the Nyquist bin belongs to none.
    """
    size = _fft_size(window_samples(sample_rate_hz, config))
    bins_mel = _mel(np.arange(size // 2) * sample_rate_hz / size)
    low_mel = _mel(config.f_min_hz)
    high_mel = _mel(config.f_max_hz or sample_rate_hz / 2)
    edges = np.linspace(low_mel, high_mel, config.n_mels + 2)
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins_mel - lower) / (centre - lower), (upper - bins_mel) / (upper - centre)
    filters_MF = np.maximum(0.0, np.minimum(rising, falling))
    return np.pad(filters_MF, ((0, 0), (0, 1)))


def window_samples(sample_rate_hz: int, config: FbankFrames) -> int:
    """Samples that a frame is of."""
    return int(sample_rate_hz * config.frame_length_ms * 0.001)


def _fft_size(window: int) -> int:
    return 1 << (window - 1).bit_length()


def _mel(hertz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return 1127.0 * np.log(1.0 + np.asarray(hertz, dtype=np.float64) / 700.0)


@lru_cache(maxsize=8)
def _window(length: int, config: FbankFrames) -> npt.NDArray[np.float32]:
    """A symmetric Hann window; Kaldi's own ("povey") is it to the power of 0.85."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))
    return (hann if config.window == "hanning" else hann**0.85).astype(np.float32)


@lru_cache(maxsize=8)
def _matrix(sample_rate_hz: int, config: FbankFrames) -> scipy.sparse.csr_array:
    return scipy.sparse.csr_array(fbank_filters(sample_rate_hz, config).astype(np.float32))
