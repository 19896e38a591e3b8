"""Log-mel frames: what torchaudio computes, without torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.frames import MelFrames, MfccFrames
from configs.schema import AudioConfig
from pipeline.audio import mel
from pipeline.audio.decode import AudioFile, decode
from pipeline.audio.mel import log_mel, mel_filters, mfcc
from pipeline.audio.refusal import ClipRefused
from pipeline.synth import make_clip

# Below its frame's loudest cell by more than this, a cell holds the rounding of a float32 FFT:
# dB away there from what float64 gives, as torchaudio's own float32 is.
MEANING_DB = {2: 90.0, 1: 80.0}  # of power, of magnitude
MOST_CELLS = {2: 0.95, 1: 0.9}  # that are equal all the same, meaning or not

SETTINGS = {
    "defaults": (22_050, MelFrames()),
    "128-to-8k": (22_050, MelFrames(n_fft=2048, n_mels=128, f_min_hz=20, f_max_hz=8_000)),
    "16k-n400": (16_000, MelFrames(n_fft=400, hop_length=160, n_mels=40)),
    "48k-50-to-14k": (48_000, MelFrames(n_fft=1024, hop_length=320, f_min_hz=50, f_max_hz=14_000)),
    "44k-hop441": (44_100, MelFrames(n_fft=1024, hop_length=441)),
    "8k-24": (
        8_000,
        MelFrames(n_fft=256, hop_length=256, n_mels=24, f_min_hz=100, f_max_hz=3_500),
    ),
    "11k-odd-rate": (11_025, MelFrames(n_fft=512, hop_length=100, n_mels=32)),
    "slaney-scale": (22_050, MelFrames(scale="slaney")),
    "slaney-norm": (22_050, MelFrames(norm="slaney")),
    "librosa": (22_050, MelFrames(n_fft=2048, scale="slaney", norm="slaney", n_mels=128)),
    "magnitude": (22_050, MelFrames(power=1)),
    "reference": (22_050, MelFrames(reference=32.0)),
    "reference-magnitude": (22_050, MelFrames(reference=0.5, power=1)),
    "floor": (22_050, MelFrames(floor=1e-5)),
    "floor-magnitude": (22_050, MelFrames(floor=1e-3, power=1)),
    "top-40-db": (22_050, MelFrames(top_db=40.0)),
    "top-60-db-magnitude": (22_050, MelFrames(top_db=60.0, power=1, reference=2.0)),
    "linear": (22_050, MelFrames(scale="linear")),
    "linear-200-to-9k": (22_050, MelFrames(scale="linear", f_min_hz=200, f_max_hz=9_000)),
    "linear-top": (16_000, MelFrames(scale="linear", n_fft=512, hop_length=160, top_db=80.0)),
}
with_settings = pytest.mark.parametrize(
    ("rate_hz", "config"), SETTINGS.values(), ids=list(SETTINGS)
)
MFCCS = {
    "defaults": (22_050, MfccFrames()),
    "13-of-40": (16_000, MfccFrames(n_fft=512, hop_length=160, n_mels=40, n_mfcc=13)),
    "all-slaney": (
        22_050,
        MfccFrames(n_fft=2048, n_mels=40, n_mfcc=40, scale="slaney", norm="slaney"),
    ),
}
with_mfccs = pytest.mark.parametrize(("rate_hz", "config"), MFCCS.values(), ids=list(MFCCS))


def heard(path: Path, rate_hz: int) -> npt.NDArray[np.float32]:
    return decode(AudioFile(path.read_bytes()), AudioConfig(sample_rate_hz=rate_hz)).waveform_N


def made(number: int) -> npt.NDArray[np.float32]:
    return make_clip(3, number, 1.5).samples_N2.mean(axis=1).astype(np.float32)


def torchaudio_mel(waveform_N: npt.NDArray, rate_hz: int, config: MelFrames) -> npt.NDArray:
    """In float64: what float32 makes of quiet cells differs from processor to processor."""
    waveform = torch.from_numpy(waveform_N).double()
    shared = {"n_fft": config.n_fft, "hop_length": config.hop_length, "power": float(config.power)}
    if config.scale == "linear":
        energy_FT = torchaudio.transforms.Spectrogram(**shared).double()(waveform)
        mel_MT = torchaudio_filters(rate_hz, config).double().T @ energy_FT
    else:
        transform = torchaudio.transforms.MelSpectrogram(
            rate_hz,
            n_mels=config.n_mels,
            f_min=config.f_min_hz,
            f_max=config.f_max_hz,
            mel_scale=config.scale,
            norm=None if config.norm == "none" else config.norm,
            **shared,
        )
        mel_MT = transform.double()(waveform)
    decibels_MT = torchaudio.functional.amplitude_to_DB(
        mel_MT,
        multiplier=10.0 if config.power == 2 else 20.0,
        amin=config.floor,
        db_multiplier=math.log10(max(config.floor, config.reference)),
        top_db=config.top_db,
    )
    return decibels_MT.numpy().T


def torchaudio_filters(rate_hz: int, config: MelFrames) -> torch.Tensor:
    f_max_hz = config.f_max_hz or float(rate_hz // 2)
    band = (config.n_fft // 2 + 1, config.f_min_hz, f_max_hz, config.n_mels, rate_hz)
    if config.scale == "linear":
        return torchaudio.functional.linear_fbanks(*band)
    norm = None if config.norm == "none" else config.norm
    return torchaudio.functional.melscale_fbanks(*band, norm=norm, mel_scale=config.scale)


def torchaudio_mfcc(waveform_N: npt.NDArray, rate_hz: int, config: MfccFrames) -> npt.NDArray:
    transform = torchaudio.transforms.MFCC(
        rate_hz,
        n_mfcc=config.n_mfcc,
        melkwargs={
            "n_fft": config.n_fft,
            "hop_length": config.hop_length,
            "n_mels": config.n_mels,
            "mel_scale": config.scale,
            "norm": None if config.norm == "none" else config.norm,
        },
    )
    return transform(torch.from_numpy(waveform_N)).numpy().T


def assert_equal_where_it_means_something(
    ours_TM: npt.NDArray, theirs_TM: npt.NDArray, config: MelFrames
) -> None:
    assert ours_TM.shape == theirs_TM.shape
    difference_TM = np.abs(ours_TM - theirs_TM)
    loud_TM = theirs_TM > theirs_TM.max(axis=1, keepdims=True) - MEANING_DB[config.power]
    assert difference_TM[loud_TM].max() < 0.01
    assert (difference_TM < 0.01).mean() > MOST_CELLS[config.power]


@with_settings
def test_equals_torchaudio_on_generated_audio(rate_hz: int, config: MelFrames) -> None:
    for number in range(6):
        ours_TM, theirs_TM = (
            transform(made(number), rate_hz, config) for transform in (log_mel, torchaudio_mel)
        )
        assert_equal_where_it_means_something(ours_TM, theirs_TM, config)


@with_settings
def test_equals_torchaudio_on_real_audio(rate_hz: int, config: MelFrames, esc10: Path) -> None:
    for path in sorted(esc10.glob("*/*.ogg"))[::40]:
        waveform_N = heard(path, rate_hz)
        ours_TM, theirs_TM = (
            transform(waveform_N, rate_hz, config) for transform in (log_mel, torchaudio_mel)
        )
        assert_equal_where_it_means_something(ours_TM, theirs_TM, config)


@with_settings
def test_filters_equal_torchaudios(rate_hz: int, config: MelFrames) -> None:
    theirs_MF = torchaudio_filters(rate_hz, config).numpy().T
    scale = theirs_MF.max()
    assert np.allclose(mel_filters(rate_hz, config) / scale, theirs_MF / scale, atol=2e-5)


@with_mfccs
def test_mfccs_equal_torchaudios_on_generated_audio(rate_hz: int, config: MfccFrames) -> None:
    for number in range(6):
        ours_TM, theirs_TM = (
            transform(made(number), rate_hz, config) for transform in (mfcc, torchaudio_mfcc)
        )
        assert ours_TM.shape == theirs_TM.shape
        assert np.abs(ours_TM - theirs_TM).max() < 0.02


@with_mfccs
def test_mfccs_equal_torchaudios_on_real_audio(
    rate_hz: int, config: MfccFrames, esc10: Path
) -> None:
    for path in sorted(esc10.glob("*/*.ogg"))[::40]:
        waveform_N = heard(path, rate_hz)
        ours_TM, theirs_TM = (
            transform(waveform_N, rate_hz, config) for transform in (mfcc, torchaudio_mfcc)
        )
        assert ours_TM.shape == theirs_TM.shape
        assert np.abs(ours_TM - theirs_TM).max() < 0.02


def test_no_blas_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of dense matrices differ between CPUs; the bytes of a shard must not."""

    class NoProducts(np.ndarray):
        def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **rest: Any) -> Any:
            assert ufunc is not np.matmul
            plain = [np.asarray(each) for each in inputs]
            return getattr(ufunc, method)(*plain, **rest)

    real = mel.log_mel
    monkeypatch.setattr(mel, "log_mel", lambda *given: real(*given).view(NoProducts))
    assert mfcc(made(0), 22_050, MfccFrames()).shape == (94, 40)


@pytest.mark.parametrize("num_samples", [513, 16_000, 16_384, 22_050, 50_000])
def test_blocks_of_windows_leave_no_seam(num_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    waveform_N = np.random.default_rng(1).normal(0, 0.1, num_samples).astype(np.float32)
    blocks_TM = log_mel(waveform_N, 22_050, MelFrames())
    monkeypatch.setattr(mel, "SAMPLES_AT_ONCE", 1 << 30)
    assert blocks_TM.tobytes() == log_mel(waveform_N, 22_050, MelFrames()).tobytes()


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
