"""K-means: batches add up, cosine stays on the sphere, a resume changes nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from sklearn.cluster import KMeans

from configs.errors import InputError
from configs.schema import CodebookConfig
from pipeline.audio.assign import unit
from pipeline.kmeans import State, measure, resumed, start, to_tensors, train

METRICS = ["l2", "cosine"]
with_metrics = pytest.mark.parametrize("metric", METRICS)


def config_of(k: int, **over: object) -> CodebookConfig:
    return CodebookConfig.model_validate({"k": k, "batch_frames": 512, "passes": 6, **over})


def trained(vectors_ND: npt.NDArray, config: CodebookConfig) -> list[State]:
    """The state after every pass."""
    return list(train(start(vectors_ND, config), vectors_ND, config, "cpu"))


def error_of(state: State, vectors_ND: npt.NDArray, metric: str = "l2") -> float:
    return float(measure(state.centroids_KD, vectors_ND, metric)["error"])


def smooth_vectors(n: int, seed: int = 0) -> npt.NDArray:
    """Vectors on a thick sheet of eight directions, as log-mel frames lie: no clusters to find."""
    random = np.random.default_rng(seed)
    directions_8D = random.normal(size=(8, 64)).cumsum(axis=1) * 3
    noise_ND = random.normal(size=(n, 64)) * 2
    return (random.normal(size=(n, 8)) @ directions_8D - 40 + noise_ND).astype(np.float32)


def two_blobs(n: int) -> npt.NDArray:
    random = np.random.default_rng(0)
    centres_ND = np.repeat([[-50.0, 0.0], [50.0, 10.0]], n, axis=0)
    return (centres_ND + random.normal(size=(2 * n, 2))).astype(np.float32)


@with_metrics
def test_error_falls_with_k(metric: str) -> None:
    vectors_ND = smooth_vectors(4_000)
    errors = [
        error_of(trained(vectors_ND, config_of(k, metric=metric))[-1], vectors_ND, metric)
        for k in (2, 8, 32, 128)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


@with_metrics
def test_error_falls_with_passes(metric: str) -> None:
    vectors_ND = smooth_vectors(4_000)
    config = config_of(32, metric=metric)
    states = [start(vectors_ND, config), *trained(vectors_ND, config)]
    errors = [error_of(state, vectors_ND, metric) for state in states]
    assert [state.passes for state in states] == list(range(7))
    assert errors[1] < 0.8 * errors[0]
    assert all(after < 1.002 * before for before, after in pairwise(errors))
    assert errors[-1] < errors[1]


@pytest.mark.parametrize("batch_frames", [10, 64, 1_000])
def test_a_centroid_is_the_mean_of_all_it_won_not_of_the_last_batch(batch_frames: int) -> None:
    """The predecessor set centroids to the mean of each batch in turn: only the last one stayed."""
    vectors_ND = two_blobs(300)
    begin = State(np.float32([[-40, 0], [40, 0]]), np.zeros(2), 0)
    config = config_of(2, batch_frames=batch_frames, passes=1)
    (state,) = train(begin, vectors_ND, config, "cpu")
    assert np.allclose(state.centroids_KD, vectors_ND.reshape(2, 300, 2).mean(axis=1), atol=1e-4)
    assert state.counts_K.tolist() == [300, 300]


def test_counts_are_carried_from_pass_to_pass_at_half_their_weight() -> None:
    vectors_ND = two_blobs(300)
    begin = State(np.float32([[-40, 0], [40, 0]]), np.zeros(2), 0)
    states = list(train(begin, vectors_ND, config_of(2, batch_frames=50, passes=3), "cpu"))
    assert [state.counts_K.tolist() for state in states] == [[300] * 2, [450] * 2, [525] * 2]
    far = State(np.float32([[-90, 0], [40, 0]]), np.array([600.0, 0.0]), 0)
    pulled = next(train(far, vectors_ND, config_of(2, passes=1), "cpu"))
    mean = vectors_ND[:300].mean(axis=0)
    assert np.allclose(pulled.centroids_KD[0], (mean + np.array([-90, 0])) / 2, atol=1e-3)


@pytest.mark.parametrize("k", [16, 50])
def test_the_order_of_the_vectors_changes_the_held_out_error_little(k: int) -> None:
    vectors_ND = smooth_vectors(10_000)
    train_ND, held_ND = vectors_ND[:7_000], vectors_ND[7_000:]
    config = config_of(k)
    begin = start(train_ND, config)
    errors = []
    for seed in range(4):
        shuffled_ND = train_ND[np.random.default_rng(seed).permutation(len(train_ND))]
        *_, state = train(begin, shuffled_ND, config, "cpu")
        errors.append(error_of(state, held_ND))
    assert max(errors) < 1.02 * min(errors)
    assert len(set(errors)) > 1, "the order was not shuffled at all"


@with_metrics
@pytest.mark.parametrize("k", [16, 50])
def test_as_good_as_lloyd_on_generated_vectors(k: int, metric: str) -> None:
    vectors_ND = smooth_vectors(6_000)
    assert_close_to_lloyd(vectors_ND, k, metric)


@with_metrics
def test_as_good_as_lloyd_on_stored_frames(frames: npt.NDArray, metric: str) -> None:
    assert_close_to_lloyd(frames, 50, metric)


def assert_close_to_lloyd(vectors_ND: npt.NDArray, k: int, metric: str) -> None:
    """Within 5 %, on the mean of 3 seeds: one run of either lands in some local minimum."""
    is_cosine = metric == "cosine"
    scaled_ND = unit(vectors_ND) if is_cosine else vectors_ND
    ours, theirs = [], []
    for seed in range(3):
        config = config_of(k, metric=metric, seed=seed, passes=10)
        ours.append(error_of(trained(vectors_ND, config)[-1], vectors_ND, metric))
        lloyd = KMeans(k, init="random", n_init=1, random_state=seed).fit(scaled_ND)
        centres_KD = lloyd.cluster_centers_.astype(np.float32)
        centres_KD = unit(centres_KD) if is_cosine else centres_KD
        theirs.append(measure(centres_KD, vectors_ND, metric)["error"])
    assert np.mean(ours) < 1.05 * np.mean(theirs)


# --- cosine ----------------------------------------------------------------------------------


def assert_unit(state: State) -> None:
    assert np.linalg.norm(state.centroids_KD, axis=1) == pytest.approx(1, abs=1e-5)


def test_cosine_centroids_have_unit_length_after_every_pass(frames: npt.NDArray) -> None:
    config = config_of(50, metric="cosine")
    for state in [start(frames, config), *trained(frames, config)]:
        assert_unit(state)


def test_zero_vectors_make_no_cosine_centroid() -> None:
    """Under `minmax` digital silence inside a clip is a zero vector: it has no direction."""
    vectors_ND = np.abs(np.random.default_rng(0).normal(size=(500, 8))).astype(np.float32)
    vectors_ND[::5] = 0
    opposite_KD = unit(np.concatenate([vectors_ND[1:5], -vectors_ND[1:2]]))  # the last wins none
    config = config_of(5, metric="cosine")
    for state in train(State(opposite_KD, np.zeros(5), 0), vectors_ND, config, "cpu"):
        assert_unit(state)


def test_zero_vectors_start_no_cosine_centroid() -> None:
    vectors_ND = np.concatenate([np.eye(4), np.zeros((20, 4))]).astype(np.float32)
    assert_unit(start(vectors_ND, config_of(4, metric="cosine")))


# --- resume ----------------------------------------------------------------------------------


@with_metrics
@pytest.mark.parametrize("passes", [1, 2, 5, 6])
def test_a_resume_after_any_pass_gives_equal_bytes(metric: str, passes: int) -> None:
    vectors_ND = smooth_vectors(3_000)
    config = config_of(20, metric=metric)
    states = trained(vectors_ND, config)
    stored = resumed(load(save(to_tensors(states[passes - 1]))))
    assert stored.passes == passes
    again = [*states[:passes], *train(stored, vectors_ND, config, "cpu")]
    assert len(again) == 6
    assert save(to_tensors(again[-1])) == save(to_tensors(states[-1]))


def test_the_seed_decides_the_result() -> None:
    vectors_ND = smooth_vectors(2_000)
    bytes_of = [
        trained(vectors_ND, config_of(10, seed=seed))[-1].centroids_KD.tobytes()
        for seed in (0, 0, 1, 2**63 - 1)
    ]
    assert bytes_of[0] == bytes_of[1]
    assert len(set(bytes_of)) == 3


# --- dead centroids --------------------------------------------------------------------------


@with_metrics
def test_dead_centroids_move_to_vectors(metric: str) -> None:
    vectors_ND = np.abs(smooth_vectors(2_000))
    alive_KD = vectors_ND[:8]
    begin_KD = np.concatenate([alive_KD, -alive_KD])  # nothing is nearest to these
    begin_KD = unit(begin_KD) if metric == "cosine" else begin_KD
    begin = State(begin_KD, np.zeros(16), 0)
    assert measure(begin_KD, vectors_ND, metric)["used"] == 8
    states = list(train(begin, vectors_ND, config_of(16, metric=metric), "cpu"))
    assert measure(states[0].centroids_KD, vectors_ND, metric)["used"] == 16
    assert error_of(states[-1], vectors_ND, metric) < error_of(begin, vectors_ND, metric)


def test_dead_centroids_move_to_different_vectors_the_worst_served_first() -> None:
    vectors_ND = np.float32([[0], [0], [0], [1], [30], [30], [20]])
    begin = State(np.float32([[0], [500], [600]]), np.zeros(3), 0)
    state = next(train(begin, vectors_ND, config_of(3), "cpu"))
    assert state.centroids_KD[1:].ravel().tolist() == [30, 20]


def test_a_centroid_that_moved_forgets_what_it_won_elsewhere() -> None:
    vectors_ND = two_blobs(300)
    begin = State(np.float32([[0, 0], [9_000, 0]]), np.array([0.0, 1_000.0]), 0)
    _, second = train(begin, vectors_ND, config_of(2, batch_frames=600, passes=2), "cpu")
    means_2D = vectors_ND.reshape(2, 300, 2).mean(axis=1)
    assert np.abs(means_2D - second.centroids_KD[1]).max(axis=1).min() < 0.01


@settings(deadline=None, max_examples=30)
@given(k=st.integers(2, 20), seed=st.integers(0, 1_000))
def test_as_many_centroids_as_distinct_vectors_serve_them_all(k: int, seed: int) -> None:
    distinct_KD = np.arange(k, dtype=np.float32)[:, None] * 10
    vectors_ND = np.repeat(distinct_KD, 3, axis=0)
    config = config_of(k, seed=seed, passes=2)
    for state in [start(vectors_ND, config), *trained(vectors_ND, config)]:
        assert sorted(state.centroids_KD.ravel().tolist()) == distinct_KD.ravel().tolist()


# --- start, errors, measures -----------------------------------------------------------------


def test_a_start_has_distinct_vectors() -> None:
    vectors_ND = np.concatenate([np.full((900, 3), -100), np.arange(300).reshape(100, 3)])
    centroids_KD = start(vectors_ND.astype(np.float32), config_of(60)).centroids_KD
    assert len(np.unique(centroids_KD, axis=0)) == 60


def test_more_centroids_than_distinct_vectors_is_an_input_error_with_numbers() -> None:
    vectors_ND = np.repeat(np.eye(5, dtype=np.float32), 100, axis=0)
    with pytest.raises(InputError, match=r"codebook\.k=6, .* 5 distinct vectors: lower k"):
        start(vectors_ND, config_of(6))


def test_vectors_of_one_direction_are_one_under_cosine() -> None:
    vectors_ND = np.arange(1, 50, dtype=np.float32)[:, None] * np.float32([3, 4])
    with pytest.raises(InputError, match=r"codebook\.k=20"):
        start(vectors_ND, config_of(20, metric="cosine"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_an_input_error(value: float) -> None:
    vectors_ND = smooth_vectors(100)
    vectors_ND[50, 3] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        start(vectors_ND, config_of(2))


@with_metrics
def test_measures_are_what_they_say(metric: str) -> None:
    centroids_KD = np.float32([[1, 0], [0, 1], [-1, 0]])
    vectors_ND = np.float32([[2, 0], [0, 1], [3, 4], [0, 5]])
    measured = measure(centroids_KD, vectors_ND, metric)
    cosine = np.mean([0, 0, 1 - 0.8, 0])
    assert measured["error"] == pytest.approx({"cosine": cosine, "l2": (1 + 18 + 16) / 4}[metric])
    assert measured["perplexity"] == pytest.approx(2 ** (0.25 * 2 + 0.75 * np.log2(4 / 3)))
    assert (measured["vectors"], measured["used"], measured["top10_share"]) == (4, 2, 1)
