"""K-means: batches add up, cosine stays on the sphere, a resume changes nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from configs.codebook import CodebookConfig
from configs.errors import InputError
from pipeline.audio.assign import Assigner, unit
from pipeline.kmeans import ArrayRows, State, Trainer, _race, spread

METRICS = ["l2", "cosine"]
with_metrics = pytest.mark.parametrize("metric", METRICS)
NOTHING = ArrayRows.of(np.empty((0, 64), np.float32))


def config_of(k: int, **over: object) -> CodebookConfig:
    return CodebookConfig.model_validate({"k": k, "passes": 6, "front_end": "none", **over})


def trained(vectors_ND: npt.NDArray, config: CodebookConfig) -> list[State]:
    """The state at the start and after every step."""
    trainer, rows = Trainer(config), ArrayRows.of(vectors_ND)
    start = trainer.start(rows)
    return [start, *trainer.train(start, rows, NOTHING)]


def error_of(centroids_KD: npt.NDArray, vectors_ND: npt.NDArray, metric: str = "l2") -> float:
    if metric == "cosine":
        vectors_ND = unit(vectors_ND)
    return float(Assigner(centroids_KD, metric).nearest(vectors_ND)[1].astype(np.float64).mean())


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


def small_batches(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("pipeline.kmeans.FEWEST_ROWS", rows)
    monkeypatch.setattr("pipeline.kmeans.FIRST_BATCH_ROWS", 1)


# --- quality -----------------------------------------------------------------------------------


@with_metrics
def test_error_falls_with_k(metric: str) -> None:
    vectors_ND = smooth_vectors(4_000)
    errors = [
        error_of(
            trained(vectors_ND, config_of(k, metric=metric))[-1].centroids_KD, vectors_ND, metric
        )
        for k in (2, 8, 32, 128)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


@with_metrics
def test_error_falls_with_steps(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batches(monkeypatch, 256)
    vectors_ND = smooth_vectors(4_000)
    states = trained(vectors_ND, config_of(32, metric=metric))
    errors = [error_of(state.centroids_KD, vectors_ND, metric) for state in states]
    assert [state.step for state in states] == list(range(len(states)))
    assert errors[1] < errors[0]
    assert all(after < 1.002 * before for before, after in pairwise(errors))
    assert errors[-1] < 0.8 * errors[0]


@with_metrics
@pytest.mark.parametrize("k", [16, 50])
def test_as_good_as_lloyd_on_generated_vectors(k: int, metric: str) -> None:
    assert_as_good_as_lloyd(smooth_vectors(6_000), k, metric)


@with_metrics
def test_as_good_as_lloyd_on_stored_frames(frames: npt.NDArray, metric: str) -> None:
    assert_as_good_as_lloyd(frames, 50, metric)


def assert_as_good_as_lloyd(vectors_ND: npt.NDArray, k: int, metric: str) -> None:
    """Within 1 %, on the mean of 3 seeds: one run of either lands in some local minimum."""
    scaled_ND = unit(vectors_ND) if metric == "cosine" else vectors_ND
    ours, theirs = [], []
    for seed in range(3):
        config = config_of(k, metric=metric, seed=seed, passes=20)
        ours.append(error_of(trained(vectors_ND, config)[-1].centroids_KD, vectors_ND, metric))
        lloyd = KMeans(k, init="random", n_init=1, random_state=seed).fit(scaled_ND)
        centres_KD = lloyd.cluster_centers_.astype(np.float32)
        centres_KD = unit(centres_KD) if metric == "cosine" else centres_KD
        theirs.append(error_of(centres_KD, vectors_ND, metric))
    assert np.mean(ours) < 1.01 * np.mean(theirs)


@pytest.mark.parametrize("k", [16, 50])
def test_the_order_of_the_vectors_changes_the_held_out_error_little(k: int) -> None:
    vectors_ND = smooth_vectors(10_000)
    train_ND, held_ND = vectors_ND[:7_000], vectors_ND[7_000:]
    trainer, errors = Trainer(config_of(k)), []
    start = trainer.start(ArrayRows.of(train_ND))
    for seed in range(4):
        shuffled_ND = train_ND[np.random.default_rng(seed).permutation(len(train_ND))]
        *_, last = trainer.train(start, ArrayRows.of(shuffled_ND), NOTHING)
        errors.append(error_of(last.centroids_KD, held_ND))
    assert max(errors) < 1.02 * min(errors)
    assert len(set(errors)) > 1, "the order was not shuffled at all"


# --- steps -------------------------------------------------------------------------------------


@given(st.integers(2, 600), st.integers(0, 300_000))
def test_first_batches_double_and_see_every_row_once(k: int, num_rows: int) -> None:
    batches = Trainer(config_of(k)).schedule(num_rows)
    if not batches:
        assert num_rows < 2 * max(4_096, 8 * k)
        return
    assert batches[0].start == 0
    assert batches[-1].stop == num_rows
    assert all(one.stop == other.start for one, other in pairwise(batches))
    sizes = [batch.stop - batch.start for batch in batches]
    assert all(size == sum(sizes[:number]) for number, size in enumerate(sizes[1:-1], start=1))


def test_a_centroid_is_the_mean_of_all_it_won_not_of_the_last_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The predecessor set centroids to the mean of each batch in turn: only the last one stayed.
    Here what was won before keeps a quarter of its weight."""
    small_batches(monkeypatch, 100)
    random = np.random.default_rng(0)
    vectors_ND = two_blobs(300)[random.permutation(600)]
    rows = ArrayRows(vectors_ND, np.ones(600, np.float32))
    begin = State(np.float32([[-40, 0], [40, 0]]), np.zeros(2))
    trainer = Trainer(config_of(2))
    stops = [batch.stop for batch in trainer.schedule(600)]
    assert stops == [100, 200, 400, 600]
    first, second, *_ = trainer.train(begin, rows, NOTHING)
    left_N = vectors_ND[:, 0] < 0
    one, two = (vectors_ND[part][left_N[part]] for part in (slice(0, 100), slice(100, 200)))
    np.testing.assert_allclose(first.centroids_KD[0], one.mean(axis=0), atol=1e-3)
    mean = (0.25 * one.sum(axis=0) + two.sum(axis=0)) / (0.25 * len(one) + len(two))
    np.testing.assert_allclose(second.centroids_KD[0], mean, atol=1e-3)
    assert second.counts_K[0] == 0.25 * len(one) + len(two)


@pytest.mark.parametrize("rows_at_a_time", [7, 100, 10_000])
def test_a_pass_is_lloyds_however_it_is_read(
    rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.kmeans.ROWS_AT_A_TIME", rows_at_a_time)
    vectors_ND = two_blobs(300)
    begin = State(np.float32([[-40, 0], [40, 0]]), np.zeros(2))
    (after, *_) = Trainer(config_of(2)).train(begin, ArrayRows.of(vectors_ND), NOTHING)
    assert np.allclose(after.centroids_KD, vectors_ND.reshape(2, 300, 2).mean(axis=1), atol=1e-4)
    assert after.counts_K.tolist() == [300, 300]


def test_a_row_that_counts_for_many_is_as_many_rows() -> None:
    vectors_ND = smooth_vectors(500)
    repeated_ND = np.repeat(vectors_ND, np.random.default_rng(0).integers(1, 9, 500), axis=0)
    rows = ArrayRows.of(repeated_ND)
    assert (len(rows), rows.weights_N.sum()) == (500, len(repeated_ND))
    plain = ArrayRows(repeated_ND, np.ones(len(repeated_ND), np.float32))
    begin = State(vectors_ND[:10].copy(), np.zeros(10))
    trainer = Trainer(config_of(10, passes=2))
    *_, merged = trainer.train(begin, rows, NOTHING)
    *_, each = trainer.train(begin, plain, NOTHING)
    np.testing.assert_allclose(merged.centroids_KD, each.centroids_KD, rtol=1e-4)
    np.testing.assert_allclose(merged.train_errors, each.train_errors, rtol=1e-4)


def test_passes_end_when_the_held_out_error_falls_no_more() -> None:
    vectors_ND = smooth_vectors(6_000)
    rows, holdout = ArrayRows.of(vectors_ND[:5_000]), ArrayRows.of(vectors_ND[5_000:])
    trainer = Trainer(config_of(16, passes=100))
    *_, last = trainer.train(trainer.start(rows), rows, holdout)
    errors = last.pass_errors
    assert 3 <= len(errors) < 100
    assert errors[-1] > (1 - 1e-3) * errors[-3]
    assert errors[-1] == pytest.approx(error_of(last.centroids_KD, vectors_ND[5_000:]), rel=1e-5)


def test_passes_are_at_most_as_many_as_asked_for() -> None:
    assert len(trained(smooth_vectors(2_000), config_of(16, passes=2))[-1].pass_errors) == 2


# --- cosine ------------------------------------------------------------------------------------


def assert_unit(state: State) -> None:
    assert np.linalg.norm(state.centroids_KD, axis=1) == pytest.approx(1, abs=1e-5)


def test_cosine_centroids_have_unit_length_after_every_step(frames: npt.NDArray) -> None:
    for state in trained(frames, config_of(50, metric="cosine")):
        assert_unit(state)


def test_zero_vectors_make_no_cosine_centroid() -> None:
    """Under `minmax` digital silence inside a clip is a zero vector: it has no direction."""
    vectors_ND = np.abs(np.random.default_rng(0).normal(size=(500, 8))).astype(np.float32)
    vectors_ND[::5] = 0
    for state in trained(vectors_ND, config_of(5, metric="cosine")):
        assert_unit(state)


# --- what decides -----------------------------------------------------------------------------


def test_the_seed_decides_the_result() -> None:
    vectors_ND = smooth_vectors(2_000)
    bytes_of = [
        trained(vectors_ND, config_of(10, seed=seed))[-1].centroids_KD.tobytes()
        for seed in (0, 0, 1, 2**63 - 1)
    ]
    assert bytes_of[0] == bytes_of[1]
    assert len(set(bytes_of)) == 3


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_decides_nothing(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors_ND = smooth_vectors(20_000)
    expected = trained(vectors_ND, config_of(50, passes=2))[-1]
    monkeypatch.setattr("pipeline.audio.engines.num_threads", lambda: threads)
    again = trained(vectors_ND, config_of(50, passes=2))[-1]
    assert again.centroids_KD.tobytes() == expected.centroids_KD.tobytes()


# --- dead centroids ----------------------------------------------------------------------------


@with_metrics
def test_dead_centroids_move_to_vectors(metric: str) -> None:
    vectors_ND = np.abs(smooth_vectors(2_000))
    alive_KD = vectors_ND[:8]
    begin_KD = np.concatenate([alive_KD, -alive_KD])  # nothing is nearest to these
    begin_KD = unit(begin_KD) if metric == "cosine" else begin_KD
    trainer = Trainer(config_of(16, metric=metric))
    states = list(trainer.train(State(begin_KD, np.zeros(16)), ArrayRows.of(vectors_ND), NOTHING))
    used = len(np.unique(Assigner(states[-1].centroids_KD, metric).tokens(vectors_ND)))
    assert used == 16
    assert error_of(states[-1].centroids_KD, vectors_ND, metric) < error_of(
        begin_KD, vectors_ND, metric
    )


def test_dead_centroids_move_to_different_vectors_far_from_their_own() -> None:
    vectors_ND = np.float32([[0], [0], [0], [1], [300], [300], [200]])
    begin = State(np.float32([[0], [5_000], [6_000]]), np.zeros(3))
    state = next(Trainer(config_of(3)).train(begin, ArrayRows.of(vectors_ND), NOTHING))
    assert sorted(state.centroids_KD[1:].ravel().tolist()) == [200, 300]


@settings(max_examples=30)
@given(k=st.integers(2, 20), seed=st.integers(0, 1_000))
def test_as_many_centroids_as_distinct_vectors_serve_them_all(k: int, seed: int) -> None:
    distinct_KD = np.arange(k, dtype=np.float32)[:, None] * 10
    for state in trained(np.repeat(distinct_KD, 3, axis=0), config_of(k, seed=seed, passes=2)):
        assert sorted(state.centroids_KD.ravel().tolist()) == distinct_KD.ravel().tolist()


# --- start -------------------------------------------------------------------------------------


@with_metrics
def test_a_start_is_of_distinct_vectors_of_the_data(metric: str) -> None:
    vectors_ND = np.concatenate([np.full((900, 64), -100, np.float32), smooth_vectors(300)])
    trainer = Trainer(config_of(60, metric=metric))
    centroids_KD = trainer.start(ArrayRows.of(vectors_ND)).centroids_KD
    assert len(np.unique(centroids_KD, axis=0)) == 60
    possible = unit(vectors_ND) if metric == "cosine" else vectors_ND
    assert {c_D.tobytes() for c_D in centroids_KD} <= {x_D.tobytes() for x_D in possible}


def test_a_spread_start_is_better_than_a_random_one() -> None:
    vectors_ND = smooth_vectors(4_000) ** 3  # some lie far out
    random = np.random.default_rng(0)
    weights_N = np.ones(len(vectors_ND))
    ours, theirs = [], []
    for _ in range(5):
        ours.append(error_of(spread(vectors_ND, weights_N, 40, "l2", random), vectors_ND))
        theirs.append(error_of(vectors_ND[random.choice(4_000, 40, replace=False)], vectors_ND))
    assert np.mean(ours) < 0.8 * np.mean(theirs)


def test_rows_win_a_race_in_proportion_to_their_shares() -> None:
    random = np.random.default_rng(0)
    wins = Counter(int(_race(np.array([1.0, 0.0, 3.0]), 1, random)[0]) for _ in range(4_000))
    assert wins[1] == 0
    assert wins[2] / 4_000 == pytest.approx(0.75, abs=0.03)
    assert _race(np.array([0.0, 2.0, 0.0]), 3, random).tolist() == [1]


def test_a_start_looks_further_where_the_first_rows_are_all_alike() -> None:
    silence_ND = np.full((50_000, 4), -100, np.float32)
    silence_ND[:, 0] += np.arange(50_000) % 2
    vectors_ND = np.concatenate([silence_ND, np.arange(400, dtype=np.float32).reshape(100, 4)])
    rows = ArrayRows(vectors_ND, np.ones(len(vectors_ND), np.float32))
    assert len(np.unique(Trainer(config_of(50)).start(rows).centroids_KD, axis=0)) == 50


def test_more_centroids_than_distinct_vectors_is_an_input_error_with_numbers() -> None:
    vectors_ND = np.repeat(np.eye(5, dtype=np.float32), 100, axis=0)
    with pytest.raises(InputError, match=r"codebook\.k=6, .* 5 distinct vectors: lower k"):
        Trainer(config_of(6)).start(ArrayRows.of(vectors_ND))


def test_where_all_vectors_are_one_no_k_is_advised() -> None:
    with pytest.raises(InputError, match=r"front_end makes one and the same vector"):
        Trainer(config_of(6)).start(ArrayRows.of(np.ones((50, 3), np.float32)))


def test_vectors_of_one_direction_are_few_under_cosine() -> None:
    vectors_ND = np.arange(1, 50, dtype=np.float32)[:, None] * np.float32([3, 4])
    with pytest.raises(InputError, match=r"one and the same vector"):
        Trainer(config_of(20, metric="cosine")).start(ArrayRows.of(vectors_ND))


def test_vectors_that_float32_cannot_tell_apart_still_start_different() -> None:
    base = np.float32(1000)
    vectors_ND = np.nextafter(base, np.float32(np.inf)) + np.zeros((1, 4), np.float32)
    vectors_ND = np.concatenate([np.full((1, 4), base), vectors_ND, -vectors_ND])
    config = dataclasses.replace(Trainer(config_of(3)))
    assert len(np.unique(config.start(ArrayRows.of(vectors_ND)).centroids_KD, axis=0)) == 3
