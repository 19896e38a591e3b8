"""From log-mel frames back to sound, so that tokens can be heard.

Mel bands say nothing of phase, and little of what is between the centres of two bands: what comes
back sounds like the clip, hoarse. Levels are those of the frames.

Legend: T frames, M mel bands, F bins of the transform, N samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft

from configs.errors import InputError
from configs.frames import FramesConfig, MelFrames
from pipeline.audio.limits import WaveformN
from pipeline.audio.mel import mel_filters

BAND_ITERATIONS = 40
PHASE_ITERATIONS = 48
MOMENTUM = 0.5  # the paper's 0.99 gave frames 0.70 dB off, this 0.66 (log-mel of ESC-10)
TINY = 1e-20

Floats = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]


def require_mel(frames: FramesConfig) -> MelFrames:
    """Raises InputError for frames that no sound can be made of."""
    if frames.kind != "mel":
        raise InputError(f"only log-mel frames can be made sound again; frames.kind={frames.kind}")
    assert isinstance(frames, MelFrames)
    return frames


def waveform_of(
    decibels_TM: npt.NDArray[np.floating], sample_rate_hz: int, config: MelFrames, seed: int = 0
) -> WaveformN:
    """A waveform [(T - 1) * hop_length] float32, of one hop at least, whose frames are near the
    given ones [T, M]."""
    num_samples = max(1, len(decibels_TM) - 1) * config.hop_length
    fewest = config.n_fft // config.hop_length + 2  # of which the transform can be taken
    short_by = max(0, fewest - len(decibels_TM))
    energy_TM = _energy(np.pad(decibels_TM, ((0, short_by), (0, 0)), mode="edge"), config)
    spectrum_TF = _bins(energy_TM, mel_filters(sample_rate_hz, config))
    magnitude_TF = spectrum_TF ** (1 / config.power)
    return griffin_lim(magnitude_TF, config.n_fft, config.hop_length, seed)[:num_samples]


def griffin_lim(magnitude_TF: Floats, n_fft: int, hop_length: int, seed: int = 0) -> WaveformN:
    """A waveform whose transform has nearly these magnitudes, by the fast Griffin-Lim algorithm
    (Perraudin, Balazs and Soendergaard, WASPAA 2013) from random phases."""
    random = np.random.Generator(np.random.Philox(key=seed))
    phase_TF = np.exp(2j * np.pi * random.random(magnitude_TF.shape))
    before_TF = np.zeros_like(phase_TF)
    for _ in range(PHASE_ITERATIONS):
        waveform_N = _inverse(magnitude_TF * phase_TF, n_fft, hop_length)
        now_TF = _transform(waveform_N, n_fft, hop_length)
        ahead_TF = now_TF + MOMENTUM * (now_TF - before_TF)
        phase_TF = ahead_TF / np.maximum(np.abs(ahead_TF), TINY)
        before_TF = now_TF
    return _inverse(magnitude_TF * phase_TF, n_fft, hop_length).astype(np.float32)


def _energy(decibels_TM: npt.NDArray[np.floating], config: MelFrames) -> Floats:
    """Band energies (or magnitudes); what lies at the floor is none at all."""
    factor = 10.0 if config.power == 2 else 20.0
    reference = max(config.floor, config.reference)
    energy_TM = reference * 10 ** (decibels_TM.astype(np.float64) / factor)
    return np.asarray(np.where(energy_TM <= 2 * config.floor, 0.0, energy_TM))


def _bins(energy_TM: Floats, filters_MF: Floats) -> Floats:
    """Bins that are not negative and have nearly these band energies: multiplicative updates
    (Lee and Seung, NIPS 2001) from the smooth spectrum that spreads each band over its bins."""
    area_M1 = np.maximum(filters_MF.sum(axis=1, keepdims=True), TINY)
    bins_TF: Floats = (energy_TM / area_M1.T) @ filters_MF + TINY
    wanted_TF = energy_TM @ filters_MF
    for _ in range(BAND_ITERATIONS):
        bins_TF *= wanted_TF / np.maximum((bins_TF @ filters_MF.T) @ filters_MF, TINY)
    return bins_TF


def _transform(waveform_N: Floats, n_fft: int, hop_length: int) -> Complex:
    """As the frames are made: centred, reflected at the ends, periodic Hann window."""
    padded_N = np.pad(waveform_N, n_fft // 2, mode="reflect")
    windows_TW = np.lib.stride_tricks.sliding_window_view(padded_N, n_fft)[::hop_length]
    return np.asarray(scipy.fft.rfft(windows_TW * _hann(n_fft), axis=1))


def _inverse(spectrum_TF: Complex, n_fft: int, hop_length: int) -> Floats:
    """The waveform whose transform is nearest: windows overlapped, over the sum of squares."""
    num_frames, window_W = len(spectrum_TF), _hann(n_fft)
    windows_TW = scipy.fft.irfft(spectrum_TF, n=n_fft, axis=1) * window_W
    total_N = np.zeros(n_fft + hop_length * (num_frames - 1))
    weight_N = np.zeros_like(total_N)
    for number, samples_W in enumerate(windows_TW):
        here = slice(number * hop_length, number * hop_length + n_fft)
        total_N[here] += samples_W
        weight_N[here] += window_W**2
    middle = slice(n_fft // 2, len(total_N) - n_fft // 2)
    return np.asarray(total_N[middle] / np.maximum(weight_N[middle], 1e-3))


def _hann(length: int) -> Floats:
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length))
