"""From frames back to sound, heard by numbers: pitch, level, duration, spectrum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from configs.errors import InputError
from configs.frames import FbankFrames, MelFrames
from pipeline.audio.frames import frames_of
from pipeline.audio.resynth import require_mel, waveform_of

RATE_HZ = 22_050
CONFIG = MelFrames()


def tone(hertz: float, seconds: float = 1.0, level: float = 0.3) -> npt.NDArray[np.float32]:
    times = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def back(waveform_N: npt.NDArray, config: MelFrames = CONFIG) -> npt.NDArray:
    return waveform_of(frames_of(waveform_N, RATE_HZ, config), RATE_HZ, config)


def level_db(waveform_N: npt.NDArray) -> float:
    return float(10 * np.log10((waveform_N.astype(np.float64) ** 2).mean()))


@pytest.mark.parametrize("hertz", [220, 440, 1_000, 3_000])
def test_a_tone_keeps_its_pitch_its_level_and_its_length(hertz: float) -> None:
    heard_N = back(tone(hertz))
    spectrum_F = np.abs(np.fft.rfft(heard_N * np.hanning(len(heard_N))))
    loudest_hz = spectrum_F.argmax() * RATE_HZ / len(heard_N)
    band_hz = 700 * 10 ** (hertz / 1e4) / 10  # about half a mel band
    assert abs(loudest_hz - hertz) < max(30, band_hz)
    assert abs(level_db(heard_N) - level_db(tone(hertz))) < 1.5
    assert abs(len(heard_N) - RATE_HZ) < CONFIG.hop_length


def test_noise_keeps_its_level_and_its_frames() -> None:
    random = np.random.default_rng(0)
    noise_N = (random.normal(size=RATE_HZ) * np.linspace(0.02, 0.3, RATE_HZ)).astype(np.float32)
    heard_N = back(noise_N)
    assert abs(level_db(heard_N) - level_db(noise_N)) < 1.0
    ours, theirs = (frames_of(part, RATE_HZ, CONFIG) for part in (heard_N, noise_N))
    assert np.abs(ours[: len(theirs)] - theirs[: len(ours)]).mean() < 2.5  # dB


def test_silence_stays_silent() -> None:
    assert np.abs(back(np.zeros(RATE_HZ, np.float32))).max() < 1e-6


@pytest.mark.parametrize(
    ("config", "close_db"),
    [
        (MelFrames(power=1), 3.0),  # a band's sum of magnitudes says less of its energy
        (MelFrames(n_fft=512, hop_length=128, n_mels=40), 2.0),
        (MelFrames(scale="slaney", norm="slaney", n_mels=80), 2.0),
    ],
    ids=str,
)
def test_other_frames_keep_the_level_too(config: MelFrames, close_db: float) -> None:
    assert abs(level_db(back(tone(1_000), config)) - level_db(tone(1_000))) < close_db


def test_the_same_frames_give_the_same_samples() -> None:
    assert back(tone(500)).tobytes() == back(tone(500)).tobytes()


def test_frames_that_are_no_log_mel_are_refused() -> None:
    with pytest.raises(InputError, match=r"only log-mel frames .* frames\.kind=fbank"):
        require_mel(FbankFrames(kind="fbank"))
