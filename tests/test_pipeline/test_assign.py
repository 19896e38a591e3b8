"""Tokens: always the lowest-numbered nearest centroid by float64, whatever found it first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from configs.errors import AudiolexError
from pipeline.audio.assign import Assigner, unit

METRICS = ["l2", "cosine"]
with_metrics = pytest.mark.parametrize("metric", METRICS)


@pytest.fixture(autouse=True, params=[None, 3, 1], ids=["all weights", "cells of 3", "cells of 1"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test with all centroids compared, and with as many ruled out as can be."""
    weights_a_cell = request.param
    is_by_cells = weights_a_cell is not None
    monkeypatch.setattr("pipeline.audio.cells.worthwhile", lambda *_: is_by_cells)
    if is_by_cells:
        monkeypatch.setattr("pipeline.audio.cells.WEIGHTS_A_CELL", weights_a_cell)
        monkeypatch.setattr("pipeline.audio.cells.BATCH_ROWS", 8)
        monkeypatch.setattr("pipeline.audio.cells.MOST_LEFT", 1.0)


def reference(vectors_TD: npt.NDArray, centroids_KD: npt.NDArray, metric: str) -> npt.NDArray:
    """What a token means: float64 costs summed over d = 0, 1, 2 ..., the first of the least."""
    cost_TK = np.zeros((len(vectors_TD), len(centroids_KD)))
    for d in range(centroids_KD.shape[1]):
        x_T1 = vectors_TD[:, d, None].astype(np.float64)
        c_1K = centroids_KD[None, :, d].astype(np.float64)
        cost_TK += -x_T1 * c_1K if metric == "cosine" else (x_T1 - c_1K) ** 2
    return cost_TK.argmin(axis=1)


def assert_exact(vectors_TD: npt.NDArray, centroids_KD: npt.NDArray, metric: str) -> None:
    tokens_T = Assigner(centroids_KD, metric).tokens(vectors_TD)
    assert tokens_T.dtype == np.uint16
    wrong = np.flatnonzero(tokens_T != reference(vectors_TD, centroids_KD, metric))
    assert len(wrong) == 0, f"{len(wrong)} of {len(vectors_TD)} tokens, first at row {wrong[0]}"


def drawn(frames: npt.NDArray, k: int, metric: str) -> npt.NDArray:
    """Centroids as training starts from: frames, so that some distances are exactly 0."""
    random = np.random.default_rng(0)
    rows_ND = np.unique(unit(frames) if metric == "cosine" else frames, axis=0)
    return rows_ND[np.sort(random.choice(len(rows_ND), k, replace=False))]


def random_centroids(k: int, metric: str, seed: int = 0) -> npt.NDArray:
    steps_KD = np.random.default_rng(seed).normal(size=(k, 64))
    centroids_KD = (steps_KD.cumsum(axis=1) * 5 - 40).astype(np.float32)
    return unit(centroids_KD) if metric == "cosine" else centroids_KD


@with_metrics
@pytest.mark.parametrize("k", [2, 50, 500])
def test_tokens_of_stored_frames_are_exact(frames: npt.NDArray, k: int, metric: str) -> None:
    assert_exact(frames, drawn(frames, k, metric), metric)


@with_metrics
@pytest.mark.parametrize("k", [2, 3, 4, 5, 50, 500])
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-6, 1e-5])
def test_midpoints_of_two_centroids_are_decided_exactly(k: int, metric: str, noise: float) -> None:
    random = np.random.default_rng(1)
    centroids_KD = random_centroids(k, metric)
    one_TD, other_TD = centroids_KD[random.integers(0, k, (2, 400))].astype(np.float64)
    middle_TD = (one_TD + other_TD) / 2
    middle_TD += random.normal(size=middle_TD.shape) * noise * np.abs(middle_TD).max()
    if metric == "cosine":
        middle_TD *= random.uniform(0.1, 100, (400, 1))
    assert_exact(middle_TD.astype(np.float32), centroids_KD, metric)


@pytest.mark.parametrize(
    ("metric", "centroids", "vector"),
    [("cosine", [[1, 0], [1, 1e-14]], [1, 1e-3]), ("l2", [[0], [1]], [2e16])],
)
def test_a_tie_that_only_the_reference_rounds_to_goes_to_the_first(
    metric: str, centroids: Any, vector: Any
) -> None:
    """Float32 sees a difference here that float64 sums lose."""
    assert_exact(np.float32([vector]), np.float32(centroids), metric)
    assert Assigner(np.float32(centroids), metric).tokens(np.float32([vector])).tolist() == [0]


@pytest.mark.parametrize(
    ("metric", "centroids", "vector"),
    [
        ("l2", [[-1e20], [0], [1e20]], [1e19]),
        ("cosine", [[np.nan, 1], [1, 0], [0, 1]], [0, 1]),
        ("l2", [[np.nan, 1], [1, 0], [0, 1]], [0, 1]),
        ("cosine", [[1, 0], [0, 1]], [3e38, 3e38]),
    ],
)
def test_where_float32_overflows_nothing_is_guessed(
    metric: str, centroids: Any, vector: Any
) -> None:
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="NaN, infinite or too large"):
        Assigner(np.float32(centroids), metric).tokens(np.float32([vector]))


@with_metrics
@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3])
def test_a_tight_cluster_far_from_the_origin_is_decided_exactly(metric: str, spread: float) -> None:
    """Rounding grows with the vectors' length, what decides with their distances."""
    random = np.random.default_rng(0)
    base_D = random.uniform(0.2, 1, 64)
    centroids_KD = (base_D + spread * random.normal(size=(50, 64))).astype(np.float32)
    vectors_TD = (base_D + spread * random.normal(size=(4_000, 64))).astype(np.float32)
    centroids_KD = unit(centroids_KD) if metric == "cosine" else centroids_KD
    assert_exact(vectors_TD, centroids_KD, metric)


@with_metrics
@pytest.mark.parametrize("offset", [0, -40, 1_000])
@settings(deadline=None, max_examples=60)
@given(k=st.integers(2, 12), width=st.integers(1, 6), seed=st.integers(0, 2**32))
def test_a_coarse_grid_full_of_ties_is_exact(
    metric: str, offset: int, k: int, width: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    centroids_KD = (random.integers(-2, 3, (k, width)) + offset).astype(np.float32)
    vectors_TD = (random.integers(-4, 5, (40, width)) / 2 + offset).astype(np.float32)
    if metric == "cosine":
        centroids_KD = unit(centroids_KD[np.any(centroids_KD, axis=1)])
    assume(len(centroids_KD) >= 2)
    assert_exact(vectors_TD, centroids_KD, metric)


@with_metrics
@pytest.mark.parametrize("copies", [2, 5, 20])
def test_of_equal_centroids_the_first_is_the_token(metric: str, copies: int) -> None:
    once_KD = random_centroids(10, metric)
    centroids_KD = np.concatenate([once_KD] * copies)
    vectors_TD = np.concatenate([once_KD, random_centroids(300, "l2", seed=1)])
    assert_exact(vectors_TD, centroids_KD, metric)
    assert Assigner(centroids_KD, metric).tokens(vectors_TD).max() < 10


def test_a_zero_vector_ties_under_cosine_and_is_nearest_to_the_shortest_under_l2() -> None:
    zeros_TD = np.zeros((3, 64), dtype=np.float32)
    assert Assigner(random_centroids(50, "cosine"), "cosine").tokens(zeros_TD).tolist() == [0] * 3
    centroids_KD = random_centroids(50, "l2")
    shortest = int(np.linalg.norm(centroids_KD.astype(np.float64), axis=1).argmin())
    assert Assigner(centroids_KD, "l2").tokens(zeros_TD).tolist() == [shortest] * 3


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-24, 1e-10, 1.0, 1e15])
def test_under_cosine_the_length_of_a_vector_does_not_matter(scale: float) -> None:
    random, centroids_KD = np.random.default_rng(0), random_centroids(50, "cosine")
    vectors_TD = random.normal(size=(100, 64))
    one_TD, other_TD = centroids_KD[random.integers(0, 50, (2, 2_000))].astype(np.float64)
    both_TD = np.concatenate([vectors_TD, one_TD + other_TD])
    assert_exact((both_TD * scale).astype(np.float32), centroids_KD, "cosine")


@with_metrics
def test_a_clip_alone_has_the_tokens_it_has_in_a_batch(frames: npt.NDArray, metric: str) -> None:
    assigner = Assigner(drawn(frames, 100, metric), metric)
    together_T = assigner.tokens(frames)
    cuts = np.sort(np.random.default_rng(0).integers(0, len(frames), 40))
    alone = [assigner.tokens(part_TD) for part_TD in np.split(frames, cuts)]
    assert (np.concatenate(alone) == together_T).all()
    assert [assigner.tokens(frames[row : row + 1])[0] for row in range(50)] == together_T[
        :50
    ].tolist()


def test_more_rows_than_are_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.audio.engines.Gemm.rows_at_a_time", 64)
    monkeypatch.setattr("pipeline.audio.cells.rows_at_a_time", lambda _: 64)
    monkeypatch.setattr("pipeline.audio.assign.RESCORE_PAIRS", 500)
    centroids_KD = np.concatenate([random_centroids(10, "l2")] * 6)
    assert_exact(random_centroids(300, "l2", seed=1), centroids_KD, "l2")


def test_no_frames_give_no_tokens() -> None:
    tokens_T = Assigner(random_centroids(5, "l2"), "l2").tokens(np.empty((0, 64), np.float32))
    assert (tokens_T.shape, tokens_T.dtype) == ((0,), np.uint16)


def test_the_highest_token_fits() -> None:
    centroids_KD = np.arange(65_536, dtype=np.float32)[:, None]
    tokens_T = Assigner(centroids_KD, "l2").tokens(np.float32([[0], [65_535], [70_000]]))
    assert tokens_T.tolist() == [0, 65_535, 65_535]


@pytest.mark.parametrize("k", [0, 65_537])
def test_no_more_centroids_than_tokens_can_count(k: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 65536 centroids, not {k}"):
        Assigner(np.zeros((k, 1), np.float32), "l2")


@with_metrics
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_no_number_gets_no_token(metric: str, value: float) -> None:
    """faiss finds -1 for it, which would become 65,535 and be no token at all."""
    vectors_TD = random_centroids(3, "l2")
    vectors_TD[1, 7] = value
    with np.errstate(all="ignore"), pytest.raises((ValueError, AudiolexError)):
        Assigner(random_centroids(50, metric), metric).tokens(vectors_TD)


@with_metrics
def test_nearest_gives_squared_distances(metric: str) -> None:
    centroids_KD, vectors_TD = random_centroids(50, metric), random_centroids(200, "l2", seed=1)
    compared_TD = unit(vectors_TD) if metric == "cosine" else vectors_TD
    found_T, distances_T = Assigner(centroids_KD, metric).nearest(compared_TD)
    gaps_TD = compared_TD.astype(np.float64) - centroids_KD[found_T]
    assert np.allclose(distances_T, (gaps_TD**2).sum(axis=1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30])
def test_unit_vectors_have_length_1_and_zero_stays_zero(scale: float) -> None:
    vectors_TD = (np.array([[3, 4], [0, 0], [-1, 0]]) * scale).astype(np.float32)
    assert unit(vectors_TD).dtype == np.float32
    expected = np.array([[0.6, 0.8], [0, 0], [-1, 0]], dtype=np.float32)
    np.testing.assert_allclose(unit(vectors_TD), expected, rtol=1e-6 if scale > 1e-38 else 1e-4)
