"""Moments of frames: exact, and the same however the frames are cut."""

from __future__ import annotations

import json
import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shards.statistics import Moments

FRAMES = hnp.arrays(
    np.float16,
    st.tuples(st.integers(1, 40), st.just(3)),
    elements=st.floats(-1000, 1000, width=16),
)


@given(FRAMES, st.integers(0, 40), st.randoms())
def test_parts_merge_to_the_whole_exactly(
    frames_TM: npt.NDArray[np.float16], cut: int, rng: random.Random
) -> None:
    parts = [Moments.of(frames_TM[:cut]), Moments.of(frames_TM[cut:])]
    rng.shuffle(parts)
    assert Moments.merged(parts) == Moments.of(frames_TM)


@given(FRAMES)
def test_mean_and_deviation_are_those_of_float64(frames_TM: npt.NDArray[np.float16]) -> None:
    moments, wide_TM = Moments.of(frames_TM), frames_TM.astype(np.float64)
    assert moments.mean == pytest.approx(wide_TM.mean(axis=0).tolist(), rel=1e-12, abs=1e-12)
    assert moments.std == pytest.approx(wide_TM.std(axis=0).tolist(), rel=1e-9, abs=1e-9)
    assert moments.summary()["min"] == tuple(wide_TM.min(axis=0).tolist())
    assert moments.summary()["max"] == tuple(wide_TM.max(axis=0).tolist())


@pytest.mark.parametrize("value", [65_504.0, -65_504.0, 2.0**-24, 0.1])
def test_no_sum_overflows_or_rounds(value: float) -> None:
    stored = np.float16(value)
    moments = Moments.of(np.full((20_000, 2), stored))
    assert moments.mean == [float(stored)] * 2
    assert moments.std == [0.0] * 2


def test_no_frames_have_no_range() -> None:
    nothing = Moments.of(np.empty((0, 3), dtype=np.float16))
    some = Moments.of(np.ones((2, 3), dtype=np.float16))
    assert nothing.summary() == {"count": 0}
    assert Moments.merged([nothing, some]) == some
    assert Moments.merged([nothing, nothing]) == nothing


@given(FRAMES)
def test_json_keeps_every_digit(frames_TM: npt.NDArray[np.float16]) -> None:
    moments = Moments.of(frames_TM)
    assert Moments.from_json(json.loads(json.dumps(moments.to_json()))) == moments
