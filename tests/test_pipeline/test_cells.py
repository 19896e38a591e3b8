"""Cells rule out much, and no weight that is the best; that tokens are exact is test_assign's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.audio import cells
from pipeline.audio.assign import Assigner, unit
from pipeline.audio.cells import FEWEST_WEIGHTS, ROWS, Cells, worthwhile
from pipeline.audio.engines import Found, Gemm, RowsTE


class Untouched:
    """What must not be needed."""

    rows_at_a_time = num_threads = 1
    is_on_gpu = False

    def search(self, rows_TE: RowsTE) -> Found:
        raise AssertionError("all weights were compared")


def near_few_directions(num_rows: int, seed: int, num_dims: int = 64) -> npt.NDArray:
    """As frames of sound lie: most of their variance in four directions."""
    random = np.random.default_rng(seed)
    basis_4D = np.random.default_rng(0).normal(size=(4, num_dims))
    near_TD = 10 * random.normal(size=(num_rows, 4)) @ basis_4D
    return (near_TD + random.normal(size=near_TD.shape)).astype(np.float32)


def as_compared(
    places_KD: npt.NDArray, rows_TD: npt.NDArray, metric: str
) -> tuple[npt.NDArray, npt.NDArray]:
    """Weights and rows."""
    if metric == "cosine":
        return unit(places_KD), rows_TD
    with np.errstate(over="ignore"):
        bias_K1 = -(places_KD.astype(np.float64) ** 2).sum(axis=1, keepdims=True) / 2
        weight_KE = np.hstack([places_KD, bias_K1]).astype(np.float32)
    return weight_KE, np.hstack([rows_TD, np.ones((len(rows_TD), 1), np.float32)])


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many scores each batch of a search was decided by; all searches are by cells."""
    sizes: list[int] = []
    best_two = cells.best_two

    def counted(scores_BN: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray]:
        sizes.append(scores_BN.size)
        return best_two(scores_BN)

    monkeypatch.setattr("pipeline.audio.cells.best_two", counted)
    monkeypatch.setattr("pipeline.audio.cells.MOST_LEFT", 1.0)
    return sizes


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1e-38, 1e-30, 1e-18, 1e-3, 1.0, 1e10]),
    far=st.sampled_from([1.0, 30.0, 1e4]),
)
def test_no_weight_that_is_the_best_is_ruled_out(
    compared: list[int], metric: str, seed: int, scale: float, far: float
) -> None:
    """The score that is found is the best there is, but for rounding."""
    places_KD = near_few_directions(FEWEST_WEIGHTS, seed) * np.float32(scale)
    rows_TD = near_few_directions(300, seed + 1) * np.float32(scale)
    rows_TD[::10] *= np.float32(far)
    rows_TD[5] = 0
    weight_KE, rows_TE = as_compared(places_KD, rows_TD, metric)
    place_KD = weight_KE if metric == "cosine" else places_KD
    compared.clear()
    found = Cells(weight_KE, place_KD, Untouched()).search(rows_TE)
    is_ordinary = far == 1 and scale >= 1e-3
    assert not is_ordinary or 0 < sum(compared) < 0.95 * len(rows_TE) * FEWEST_WEIGHTS
    true_TK = rows_TE.astype(np.float64) @ weight_KE.T.astype(np.float64)
    taken_T = np.take_along_axis(true_TK, found.index_T[:, None], axis=1)[:, 0]
    lengths_T = np.linalg.norm(rows_TE[:, :64].astype(np.float64), axis=1)
    largest = np.linalg.norm(weight_KE[:, :64].astype(np.float64), axis=1).max()
    rounding_T = 80 * 2.0**-24 * (lengths_T * largest + largest**2) + 80 * 2.0**-126
    assert (true_TK.max(axis=1) - taken_T <= 2 * rounding_T).all()


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("odd", [0.0, 1e15])
def test_one_row_that_lies_elsewhere_spoils_nothing_for_the_others(
    compared: list[int], odd: float, metric: str
) -> None:
    weight_KE, rows_TE = as_compared(
        near_few_directions(500, 0), near_few_directions(8_192, 1), metric
    )
    by_cells = Cells(weight_KE, weight_KE[:, :64], Untouched())
    by_cells.search(rows_TE)
    before = sum(compared)
    compared.clear()
    rows_TE[7, :64] *= np.float32(odd)
    by_cells.search(rows_TE)
    assert sum(compared) < before + 500 * 600, "more than one batch changed"


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_found_is_what_comparing_all_weights_finds(metric: str) -> None:
    weight_KE, rows_TE = as_compared(
        near_few_directions(2_000, 0), near_few_directions(20_000, 1), metric
    )
    by_cells = Cells(weight_KE, weight_KE[:, :64], Untouched()).search(rows_TE)
    by_all = Gemm(weight_KE).search(rows_TE)
    assert (by_cells.index_T == by_all.index_T).mean() > 0.9999  # but for ties within rounding
    np.testing.assert_allclose(by_cells.best_T, by_all.best_T, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_of_vectors_near_few_directions_most_centroids_are_ruled_out(
    metric: str, compared: list[int]
) -> None:
    centroids_KD = near_few_directions(2_000, 0)
    centroids_KD = unit(centroids_KD) if metric == "cosine" else centroids_KD
    Assigner(centroids_KD, metric).tokens(near_few_directions(26_000, 1))
    assert 0 < sum(compared) < 0.6 * 2_000 * 26_000


def test_where_little_can_be_ruled_out_all_weights_are_compared() -> None:
    random = np.random.default_rng(0)
    places_KD, rows_TD = random.normal(size=(2, 2_000, 64)).astype(np.float32)
    weight_KE, rows_TE = as_compared(places_KD, rows_TD, "l2")
    with pytest.raises(AssertionError, match="all weights were compared"):
        Cells(weight_KE, places_KD, Untouched()).search(rows_TE)


@pytest.mark.parametrize(
    ("num_rows", "num_weights"),
    [(ROWS // 4 - 1, 500), (10**6, FEWEST_WEIGHTS - 1), (10_000, 5000)],
)
def test_few_rows_or_weights_are_not_worth_it(num_rows: int, num_weights: int) -> None:
    assert not worthwhile(num_rows, num_weights)
    assert worthwhile(ROWS // 4, 500)
