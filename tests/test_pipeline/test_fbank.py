"""Kaldi's filter banks: what torchaudio computes, and what transformers feeds to AST."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st
from transformers import ASTFeatureExtractor

from configs.frames import FbankFrames
from configs.schema import AudioConfig
from pipeline.audio.decode import AudioFile, decode
from pipeline.audio.fbank import fbank, fbank_filters
from pipeline.audio.refusal import ClipRefused
from pipeline.synth import make_clip

AST = FbankFrames(kind="fbank")
SETTINGS = {
    "ast": (16_000, AST),
    "kaldi-defaults": (16_000, FbankFrames(kind="fbank", n_mels=23, window="povey")),
    "no-preemphasis": (16_000, FbankFrames(kind="fbank", n_mels=64, preemphasis=0.0)),
    "band": (16_000, FbankFrames(kind="fbank", n_mels=40, f_min_hz=100.0, f_max_hz=7_000.0)),
    "22k": (22_050, FbankFrames(kind="fbank", n_mels=80)),
    "long-frames": (
        8_000,
        FbankFrames(kind="fbank", n_mels=40, frame_length_ms=50.0, frame_shift_ms=12.5),
    ),
}
with_settings = pytest.mark.parametrize(
    ("rate_hz", "config"), SETTINGS.values(), ids=list(SETTINGS)
)
# A cell is the logarithm of an energy; below this share of its frame's loudest cell both sides
# hold the rounding of a float32 transform.
MEANING = np.log(1e-9)


def made(number: int) -> npt.NDArray[np.float32]:
    return make_clip(3, number, 1.5).samples_N2.mean(axis=1).astype(np.float32)


def heard(path: Path, rate_hz: int) -> npt.NDArray[np.float32]:
    return decode(AudioFile(path.read_bytes()), AudioConfig(sample_rate_hz=rate_hz)).waveform_N


def torchaudio_fbank(waveform_N: npt.NDArray, rate_hz: int, config: FbankFrames) -> npt.NDArray:
    return torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(waveform_N)[None],
        sample_frequency=float(rate_hz),
        num_mel_bins=config.n_mels,
        frame_length=config.frame_length_ms,
        frame_shift=config.frame_shift_ms,
        low_freq=config.f_min_hz,
        high_freq=config.f_max_hz or 0.0,
        window_type=config.window,
        preemphasis_coefficient=config.preemphasis,
        dither=0.0,
        htk_compat=True,
    ).numpy()


def assert_equal(ours_TM: npt.NDArray, theirs_TM: npt.NDArray) -> None:
    assert ours_TM.shape == theirs_TM.shape
    assert ours_TM.dtype == np.float32
    loud_TM = theirs_TM > theirs_TM.max(axis=1, keepdims=True) + MEANING
    difference_TM = np.abs(ours_TM - theirs_TM)
    assert difference_TM[loud_TM].max() < 0.01
    assert (difference_TM < 0.002).mean() > 0.95


@with_settings
def test_equals_torchaudio_on_generated_audio(rate_hz: int, config: FbankFrames) -> None:
    for number in range(6):
        ours_TM = fbank(made(number), rate_hz, config)
        assert_equal(ours_TM, torchaudio_fbank(made(number), rate_hz, config))


@with_settings
def test_equals_torchaudio_on_real_audio(rate_hz: int, config: FbankFrames, esc10: Path) -> None:
    for path in sorted(esc10.glob("*/*.ogg"))[::40]:
        waveform_N = heard(path, rate_hz)
        ours_TM = fbank(waveform_N, rate_hz, config)
        assert_equal(ours_TM, torchaudio_fbank(waveform_N, rate_hz, config))


def test_equals_what_transformers_feeds_to_ast_on_real_audio(esc10: Path) -> None:
    extractor = ASTFeatureExtractor(do_normalize=False)
    for path in sorted(esc10.glob("*/*.ogg"))[::40]:
        waveform_N = heard(path, 16_000)
        ours_TM = fbank(waveform_N, 16_000, AST)
        theirs = extractor(waveform_N, sampling_rate=16_000, return_tensors="np")
        assert_equal(ours_TM, theirs["input_values"][0][: len(ours_TM)])
        assert not theirs["input_values"][0][len(ours_TM) :].any(), "the rest is padding"


@given(st.integers(400, 4_000))
def test_frames_do_not_run_over_the_edges(num_samples: int) -> None:
    frames_TM = fbank(np.ones(num_samples, dtype=np.float32), 16_000, AST)
    assert frames_TM.shape == (1 + (num_samples - 400) // 160, 128)


def test_silence_is_kaldis_floor() -> None:
    frames_TM = fbank(np.zeros(16_000, dtype=np.float32), 16_000, AST)
    assert np.allclose(frames_TM, np.log(np.finfo(np.float32).eps))


def test_less_than_one_window_is_refused_with_both_numbers() -> None:
    with pytest.raises(ClipRefused, match="399 samples; a window needs 400") as caught:
        fbank(np.ones(399, dtype=np.float32), 16_000, AST)
    assert caught.value.reason == "too_short"


def test_the_nyquist_bin_belongs_to_no_filter() -> None:
    filters_MF = fbank_filters(16_000, AST)
    assert filters_MF.shape == (128, 257)
    assert not filters_MF[:, -1].any()
    assert filters_MF[-1, -2] > 0
