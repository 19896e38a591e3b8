"""Mixing: the mean of the channels, and one result for integers and floats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.audio.mono import SAMPLES_AT_ONCE, mix, to_mono

SHAPES_NC = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)


@given(hnp.arrays(np.float32, SHAPES_NC, elements=st.floats(-1, 1, width=32)))
def test_mono_is_the_mean_of_the_channels(samples_NC: npt.NDArray) -> None:
    mean_N = samples_NC.astype(np.float64).mean(axis=1)
    assert np.allclose(to_mono(samples_NC), mean_N, rtol=0, atol=5e-7)


@given(hnp.arrays(np.int32, SHAPES_NC, elements=st.integers(-(2**23), 2**23 - 1)))
def test_integers_give_the_bytes_of_floats(samples_NC: npt.NDArray) -> None:
    mono_N = np.empty(len(samples_NC), dtype=np.float32)
    mix([*samples_NC.T], mono_N, unit=2.0**-23)
    floats_NC = samples_NC.astype(np.float32) * np.float32(2.0**-23)
    assert mono_N.tobytes() == to_mono(floats_NC).tobytes()


def test_stretches_leave_no_gap() -> None:
    samples_NC = np.random.default_rng(0).standard_normal((2 * SAMPLES_AT_ONCE + 7, 2), np.float32)
    assert (to_mono(samples_NC) == (samples_NC[:, 0] + samples_NC[:, 1]) * np.float32(0.5)).all()


def test_mono_leaves_its_input_alone() -> None:
    samples_NC = np.ones((4, 3), dtype=np.float32)
    to_mono(samples_NC)
    assert (samples_NC == 1).all()
