"""Log-mel frames: what torchaudio computes, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.frames import MelFrames
from configs.schema import AudioConfig
from pipeline.audio.decode import ClipRefused, decode
from pipeline.audio.mel import log_mel, mel_filters
from pipeline.synth import make_clip

# Below its frame's loudest cell by more than this, a cell holds the rounding of a float32 FFT,
# torchaudio's as ours: both are dB away there from what float64 gives.
MEANING_DB = 90.0

SETTINGS = [
    (22_050, MelFrames()),
    (22_050, MelFrames(n_fft=2048, n_mels=128, f_min_hz=20, f_max_hz=8_000)),
    (16_000, MelFrames(n_fft=400, hop_length=160, n_mels=40)),
    (48_000, MelFrames(n_fft=1024, hop_length=320, f_min_hz=50, f_max_hz=14_000)),
    (44_100, MelFrames(n_fft=1024, hop_length=441)),
    (8_000, MelFrames(n_fft=256, hop_length=256, n_mels=24, f_min_hz=100, f_max_hz=3_500)),
    (11_025, MelFrames(n_fft=512, hop_length=100, n_mels=32)),
]
NAMES = [f"{rate}-{mel.n_fft}-{mel.hop_length}-{mel.n_mels}" for rate, mel in SETTINGS]
with_settings = pytest.mark.parametrize(("rate_hz", "config"), SETTINGS, ids=NAMES)


def torchaudio_mel(waveform_N: npt.NDArray, rate_hz: int, config: MelFrames) -> npt.NDArray:
    spectrogram = torchaudio.transforms.MelSpectrogram(
        rate_hz,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        n_mels=config.n_mels,
        f_min=config.f_min_hz,
        f_max=config.f_max_hz,
    )
    decibels = torchaudio.transforms.AmplitudeToDB()
    return decibels(spectrogram(torch.from_numpy(waveform_N))).numpy().T


def assert_equal_where_it_means_something(ours_TM: npt.NDArray, theirs_TM: npt.NDArray) -> None:
    assert ours_TM.shape == theirs_TM.shape
    difference_TM = np.abs(ours_TM - theirs_TM)
    loud_TM = theirs_TM > theirs_TM.max(axis=1, keepdims=True) - MEANING_DB
    assert difference_TM[loud_TM].max() < 0.01
    assert (difference_TM < 0.01).mean() > 0.95


@with_settings
def test_equals_torchaudio_on_generated_audio(rate_hz: int, config: MelFrames) -> None:
    for number in range(6):
        waveform_N = make_clip(3, number, 1.5).samples_N2.mean(axis=1).astype(np.float32)
        assert_equal_where_it_means_something(
            log_mel(waveform_N, rate_hz, config), torchaudio_mel(waveform_N, rate_hz, config)
        )


@with_settings
def test_equals_torchaudio_on_real_audio(rate_hz: int, config: MelFrames, esc10: Path) -> None:
    for path in sorted(esc10.glob("*/*.ogg"))[::40]:
        waveform_N = decode(path.read_bytes(), AudioConfig(sample_rate_hz=rate_hz)).waveform_N
        assert_equal_where_it_means_something(
            log_mel(waveform_N, rate_hz, config), torchaudio_mel(waveform_N, rate_hz, config)
        )


@with_settings
def test_filters_equal_torchaudios(rate_hz: int, config: MelFrames) -> None:
    theirs_FM = torchaudio.functional.melscale_fbanks(
        config.n_fft // 2 + 1,
        config.f_min_hz,
        config.f_max_hz or float(rate_hz // 2),
        config.n_mels,
        rate_hz,
        norm=None,
        mel_scale="htk",
    )
    assert np.allclose(mel_filters(rate_hz, config), theirs_FM.numpy().T, atol=2e-5)


def test_digital_silence_is_exactly_the_floor() -> None:
    frames_TM = log_mel(np.zeros(22_050, dtype=np.float32), 22_050, MelFrames())
    assert (frames_TM == -100.0).all()
    assert frames_TM.dtype == np.float32


def test_silence_inside_a_clip_is_exactly_the_floor() -> None:
    waveform_N = np.random.default_rng(0).uniform(-1, 1, 22_050).astype(np.float32)
    waveform_N[8_000:16_000] = 0
    frames_TM = log_mel(waveform_N, 22_050, MelFrames())
    inside = slice(-(-8_512 // 512), 15_488 // 512 + 1)
    assert (frames_TM[inside] == -100.0).all()
    assert frames_TM[0].min() > -20


@settings(deadline=None)
@given(
    n_fft=st.sampled_from([256, 400, 512, 1024]),
    hop_share=st.floats(0.1, 1.0),
    extra=st.integers(1, 5_000),
)
def test_there_are_1_plus_n_over_hop_frames(n_fft: int, hop_share: float, extra: int) -> None:
    config = MelFrames(n_fft=n_fft, hop_length=max(1, int(n_fft * hop_share)), n_mels=8)
    num_samples = n_fft // 2 + extra
    frames_TM = log_mel(np.ones(num_samples, dtype=np.float32), 22_050, config)
    assert frames_TM.shape == (1 + num_samples // config.hop_length, 8)


def test_frame_t_is_centred_on_sample_t_times_hop() -> None:
    waveform_N = np.zeros(22_050, dtype=np.float32)
    waveform_N[20 * 512] = 1.0
    assert log_mel(waveform_N, 22_050, MelFrames()).mean(axis=1).argmax() == 20


def test_ten_times_the_amplitude_is_20_db_more() -> None:
    waveform_N = np.random.default_rng(0).normal(0, 0.05, 22_050).astype(np.float32)
    louder = log_mel(10 * waveform_N, 22_050, MelFrames())
    assert np.abs(louder - log_mel(waveform_N, 22_050, MelFrames()) - 20).max() < 1e-3


def test_a_clip_too_short_to_reflect_is_refused_with_both_numbers() -> None:
    config = MelFrames(n_fft=1024)
    with pytest.raises(ClipRefused, match="512 samples; n_fft 1024 needs 513") as caught:
        log_mel(np.ones(512, dtype=np.float32), 22_050, config)
    assert caught.value.reason == "too_short"
    assert len(log_mel(np.ones(513, dtype=np.float32), 22_050, config)) == 2
