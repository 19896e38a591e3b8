"""Sketches settle much, and nothing wrongly; that tokens stay exact is test_assign's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.assign import Assigner
from pipeline.audio.sketch import FEWEST_WEIGHTS, Sketch


def near_few_directions(num_rows: int, seed: int, num_dims: int = 64) -> npt.NDArray:
    """Most of their variance in four directions."""
    random = np.random.default_rng(seed)
    basis_4D = np.random.default_rng(0).normal(size=(4, num_dims))
    near_TD = 10 * random.normal(size=(num_rows, 4)) @ basis_4D
    return (near_TD + random.normal(size=near_TD.shape) - 40).astype(np.float32)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1e-30, 1e-20, 1e-3, 1.0, 1e10, 1e18, 1e30]),
    num_bias=st.integers(0, 1),
)
def test_what_is_settled_is_the_best_by_float64(seed: int, scale: float, num_bias: int) -> None:
    weight_KD = near_few_directions(FEWEST_WEIGHTS, seed) * np.float32(scale)
    bias_KE = np.random.default_rng(seed).normal(size=(FEWEST_WEIGHTS, num_bias)) * scale**2
    with np.errstate(over="ignore"):
        weight_KE = np.hstack([weight_KD, bias_KE]).astype(np.float32)
    rows_TD = near_few_directions(200, seed + 1) * np.float32(scale)
    rows_TE = np.hstack([rows_TD, np.ones((200, num_bias))]).astype(np.float32)
    sketch = Sketch.of(weight_KE, 64)
    assert sketch is not None
    index_T, unsure = sketch.settle(rows_TE)
    with np.errstate(invalid="ignore"):
        scores_TK = rows_TE.astype(np.float64) @ weight_KE.T.astype(np.float64)
    settled = np.setdiff1d(np.arange(200), unsure)
    assert (index_T[settled] == scores_TK.argmax(axis=1)[settled]).all()


def test_vectors_near_few_directions_are_mostly_settled() -> None:
    sketch = Sketch.of(near_few_directions(5_000, 0) + 40, 64)
    assert sketch is not None
    _, unsure = sketch.settle(near_few_directions(2_000, 1) + 40)
    assert len(unsure) < 500


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (near_few_directions(FEWEST_WEIGHTS - 1, 0), "too few"),
        (np.random.default_rng(0).normal(size=(5_000, 64)), "no direction tells more than others"),
    ],
)
def test_where_a_sketch_would_save_nothing_there_is_none(weights: npt.NDArray, why: str) -> None:
    assert Sketch.of(weights.astype(np.float32), 64) is None, why


def test_an_assigner_of_many_centroids_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[int] = []
    settle = Sketch.settle

    def counted(self: Sketch, rows_TE: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray]:
        index_T, unsure = settle(self, rows_TE)
        settled.append(len(rows_TE) - len(unsure))
        return index_T, unsure

    monkeypatch.setattr(Sketch, "settle", counted)
    Assigner(near_few_directions(FEWEST_WEIGHTS, 0), "l2").tokens(near_few_directions(500, 1))
    assert sum(settled) > 250
