"""Log-mel frames, equal to torchaudio's MelSpectrogram + AmplitudeToDB within 0.01 dB, and MFCC.

That holds for every cell within 90 dB of the loudest of its frame (80 dB for magnitudes). Below
that both are rounding noise of a float32 transform, torchaudio up to 3 dB from the float64 value.

scipy's real FFT in float32 and a sparse mel matrix, one clip at a time: twice as fast on a CPU
as torch.stft, which loses again when it is batched (its complex work array leaves the cache).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy  # its parts load when used: not in workers and drivers, whose child decodes

from configs.frames import MelFrames, MfccFrames
from pipeline.audio.limits import WaveformN
from pipeline.audio.refusal import ClipRefused

SAMPLES_AT_ONCE = 65_536  # 256 KiB of windows
SLANEY_LINEAR_HZ, SLANEY_STEP_HZ = 1000.0, 200.0 / 3  # linear below, logarithmic above
SLANEY_LOG_STEP = np.log(6.4) / 27

FramesTM = npt.NDArray[np.float32]
FiltersMF = npt.NDArray[np.float64]


def log_mel(waveform_N: WaveformN, sample_rate_hz: int, config: MelFrames) -> FramesTM:
    """Log-mel frames [T, M] float32 in dB, T = 1 + N // hop_length.

    The signal is padded by reflection so that frame t is centred on sample t * hop_length.
    Raises ClipRefused("too_short") below n_fft // 2 + 1 samples, which cannot be reflected.
    """
    pad = config.n_fft // 2
    if len(waveform_N) <= pad:
        detail = f"{len(waveform_N)} samples; n_fft {config.n_fft} needs {pad + 1}"
        raise ClipRefused("too_short", detail)
    padded_N = np.pad(waveform_N, pad, mode="reflect")
    windows_TW = np.lib.stride_tricks.sliding_window_view(padded_N, config.n_fft)
    windows_TW = windows_TW[:: config.hop_length]
    mel_MT = np.empty((config.n_mels, len(windows_TW)), dtype=np.float32)
    at_once = max(1, SAMPLES_AT_ONCE // config.n_fft)
    for start in range(0, len(windows_TW), at_once):
        rows = slice(start, start + at_once)
        mel_MT[:, rows] = _mel_bands(windows_TW[rows], sample_rate_hz, config)
    return _decibels(np.ascontiguousarray(mel_MT.T), config)


def _mel_bands(windows_TW: FramesTM, sample_rate_hz: int, config: MelFrames) -> FramesTM:
    """Energies [M, T] of a few windows: few enough that what lies between stays in the cache."""
    spectrum_TF = scipy.fft.rfft(windows_TW * _hann(config.n_fft), axis=1)
    energy_TF = spectrum_TF.real**2
    energy_TF += spectrum_TF.imag**2
    if config.power == 1:
        np.sqrt(energy_TF, out=energy_TF)
    return np.asarray(_mel_matrix(sample_rate_hz, config) @ energy_TF.T)


def mfcc(waveform_N: WaveformN, sample_rate_hz: int, config: MfccFrames) -> FramesTM:
    """Mel-frequency cepstral coefficients [T, n_mfcc] float32; raises as log_mel does.

    By a fast DCT-II, not a matrix product: BLAS gives other bytes on another CPU.
    """
    mel_TM = log_mel(waveform_N, sample_rate_hz, config)
    cepstrum_TM = scipy.fft.dct(mel_TM, axis=1, norm="ortho")
    return np.ascontiguousarray(cepstrum_TM[:, : config.n_mfcc], dtype=np.float32)


def mel_filters(sample_rate_hz: int, config: MelFrames) -> FiltersMF:
    """Triangular filters [M, n_fft // 2 + 1], spaced evenly on the configured scale.

    Sources: the HTK book's mel formula, 2595 log10(1 + f / 700); Slaney's Auditory Toolbox
    (1998); torchaudio.functional.melscale_fbanks and linear_fbanks, which the tests compare with.
    """
    to_scale, to_hz = SCALES[config.scale]
    top_hz = config.f_max_hz or sample_rate_hz // 2
    ends = to_scale(np.array([config.f_min_hz, top_hz], dtype=np.float64))
    edges_hz = to_hz(np.linspace(ends[0], ends[1], config.n_mels + 2))
    bins_hz = np.linspace(0.0, sample_rate_hz // 2, config.n_fft // 2 + 1)
    lower, centre, upper = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bins_hz - lower) / (centre - lower)
    falling = (upper - bins_hz) / (upper - centre)
    filters_MF = np.maximum(0.0, np.minimum(rising, falling))
    if config.norm == "slaney":  # each filter has the same area
        filters_MF *= 2.0 / (upper - lower)
    return filters_MF


def _htk_to_mel(hertz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(2595.0 * np.log10(1.0 + hertz / 700.0))


def _htk_to_hz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)


def _slaney_to_mel(hertz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = np.log(np.maximum(hertz, SLANEY_LINEAR_HZ) / SLANEY_LINEAR_HZ) / SLANEY_LOG_STEP
    return np.asarray(np.minimum(hertz, SLANEY_LINEAR_HZ) / SLANEY_STEP_HZ + above)


def _slaney_to_hz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    knee = SLANEY_LINEAR_HZ / SLANEY_STEP_HZ
    above = np.exp(SLANEY_LOG_STEP * (np.maximum(mels, knee) - knee))
    return np.asarray(np.minimum(mels, knee) * SLANEY_STEP_HZ * above)


def _unchanged(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values


SCALES = {
    "htk": (_htk_to_mel, _htk_to_hz),
    "slaney": (_slaney_to_mel, _slaney_to_hz),
    "linear": (_unchanged, _unchanged),
}


def lowest_db(config: MelFrames) -> float:
    """What the floor of the logarithm is in dB: no cell has less."""
    factor, reference_db = _db_scale(config)
    return float(factor * np.log10(config.floor) - reference_db)


def _db_scale(config: MelFrames) -> tuple[float, float]:
    """What a power of ten is in dB, and the reference."""
    factor = 10.0 if config.power == 2 else 20.0
    return factor, factor * np.log10(max(config.floor, config.reference))


def _decibels(mel_TM: FramesTM, config: MelFrames) -> FramesTM:
    """torchaudio's AmplitudeToDB: floor, logarithm, reference, and what is too far below."""
    factor, reference_db = _db_scale(config)
    floor_db = lowest_db(config)
    np.maximum(mel_TM, np.float32(config.floor), out=mel_TM)
    np.log10(mel_TM, out=mel_TM)
    mel_TM *= np.float32(factor)
    if reference_db:
        mel_TM -= np.float32(reference_db)
    if config.top_db is not None:
        floor_db = max(floor_db, float(mel_TM.max()) - config.top_db)
    return np.maximum(mel_TM, np.float32(floor_db), out=mel_TM)


@lru_cache(maxsize=8)
def _hann(length: int) -> npt.NDArray[np.float32]:
    """The periodic Hann window."""
    turns = np.arange(length) / length
    return (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)


@lru_cache(maxsize=8)
def _mel_matrix(sample_rate_hz: int, config: MelFrames) -> scipy.sparse.csr_array:
    return scipy.sparse.csr_array(mel_filters(sample_rate_hz, config).astype(np.float32))
