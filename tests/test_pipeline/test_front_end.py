"""Front ends: pure functions of one clip's frames."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from configs.schema import CodebookConfig
from pipeline.audio.front_end import FRONT_ENDS, minmax, none

DECIBELS = hnp.arrays(
    np.float16,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(-100, 60, width=16),
)


def test_every_front_end_of_the_config_is_there() -> None:
    assert set(FRONT_ENDS) == set(get_args(CodebookConfig.model_fields["front_end"].annotation))


@given(DECIBELS)
def test_none_gives_the_stored_values(frames_TM: npt.NDArray) -> None:
    vectors_TD = none(frames_TM)
    assert vectors_TD.dtype == np.float32
    assert (vectors_TD == frames_TM).all()


@given(DECIBELS)
def test_minmax_spans_0_to_1_and_keeps_the_order(frames_TM: npt.NDArray) -> None:
    assume(frames_TM.min() < frames_TM.max())
    vectors_TD = minmax(frames_TM)
    assert vectors_TD.dtype == np.float32
    assert (vectors_TD.min(), vectors_TD.max()) == (0, 1)
    rising = np.argsort(frames_TM, axis=None, kind="stable")
    assert (np.diff(vectors_TD.ravel()[rising]) >= 0).all()


@pytest.mark.parametrize("value", [-100, 0, 31.5])
def test_a_constant_clip_becomes_0(value: float) -> None:
    assert (minmax(np.full((5, 3), value, dtype=np.float16)) == 0).all()


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_no_frames_give_no_vectors(name: str) -> None:
    assert FRONT_ENDS[name](np.empty((0, 64), dtype=np.float16)).shape == (0, 64)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_the_frames_stay_as_they_are(name: str) -> None:
    frames_TM = np.linspace(-100, 0, 12, dtype=np.float32).reshape(4, 3)
    before_TM = frames_TM.copy()
    FRONT_ENDS[name](frames_TM)
    assert (frames_TM == before_TM).all()
