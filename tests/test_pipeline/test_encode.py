"""Encoding: a 16-bit FLAC file gives the waveform back, and loud samples are clipped."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.audio.encode import flac_bytes

STEP = 2.0**-15


def read(data: bytes) -> tuple[npt.NDArray, int]:
    return soundfile.read(io.BytesIO(data), dtype="float32")


@given(
    hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1, 1, width=32)),
    st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000]),
)
def test_a_waveform_comes_back_to_16_bits(waveform_N: npt.NDArray, rate_hz: int) -> None:
    samples_N, rate_back_hz = read(flac_bytes(waveform_N, rate_hz))
    assert rate_back_hz == rate_hz
    assert samples_N.shape == waveform_N.shape
    assert np.abs(samples_N - waveform_N).max() <= 1.5 * STEP


def test_the_file_is_mono_16_bit_flac() -> None:
    info = soundfile.info(io.BytesIO(flac_bytes(np.zeros(100, dtype=np.float32), 22_050)))
    assert (info.format, info.subtype, info.channels) == ("FLAC", "PCM_16", 1)


@given(hnp.arrays(np.float32, 100, elements=st.floats(-100, 100, width=32)))
def test_loud_samples_are_clipped_not_wrapped(waveform_N: npt.NDArray) -> None:
    samples_N, _ = read(flac_bytes(waveform_N, 22_050))
    assert np.abs(samples_N - np.clip(waveform_N, -1, 1)).max() <= 1.5 * STEP


def test_the_waveform_itself_is_not_clipped() -> None:
    waveform_N = np.array([2.0, -3.0], dtype=np.float32)
    flac_bytes(waveform_N, 22_050)
    assert waveform_N.tolist() == [2.0, -3.0]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_waveform_gives_the_same_bytes(seed: int) -> None:
    waveform_N = np.random.default_rng(seed).uniform(-1, 1, 5_000).astype(np.float32)
    assert flac_bytes(waveform_N, 22_050) == flac_bytes(waveform_N.copy(), 22_050)
