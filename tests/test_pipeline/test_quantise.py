"""A codebook at work: exact tokens of one and of several codebooks, silence apart, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import silhouette_score

from pipeline import ledger
from pipeline.audio.quantise import Quantiser
from pipeline.token_frames import fit_token_frames
from shards.codebook import Codebook


def codebook_of(
    centroids_QKD: npt.NDArray, *, mask: float | None = None, sounds: Any = None, **over: Any
) -> Codebook:
    front_end = {"steps": [], "mask_below_db": mask}
    token_frames_QVM = np.zeros((0, 0, 0), np.float32) if sounds is None else sounds
    fields = {"metric": "l2", "frames": {}, "sample_rate_hz": 8000, "frames_fingerprint": "made"}
    return Codebook(
        centroids_QKD.astype(np.float32),
        front_end=front_end,
        token_frames_QVM=token_frames_QVM,
        **{**fields, **over},
    )


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def brute(vectors_TD: npt.NDArray, centroids_KD: npt.NDArray) -> npt.NDArray:
    off_TKD = vectors_TD[:, None, :].astype(np.float64) - centroids_KD[None].astype(np.float64)
    return (off_TKD**2).sum(axis=2).argmin(axis=1)


def test_a_product_has_the_nearest_centroid_of_each_part(random: np.random.Generator) -> None:
    centroids_QKD, frames_TM = random.normal(size=(4, 20, 3)), random.normal(size=(200, 12))
    quantiser = Quantiser(codebook_of(centroids_QKD))
    tokens_TQ = quantiser.tokens(frames_TM.astype(np.float16))
    stored_TM = frames_TM.astype(np.float16).astype(np.float32)
    for q in range(4):
        part = slice(3 * q, 3 * q + 3)
        expected = brute(stored_TM[:, part], centroids_QKD[q].astype(np.float32))
        assert tokens_TQ[:, q].tolist() == expected.tolist()
    made_TD = quantiser.vectors(tokens_TQ)
    assert made_TD[:, 3:6].tolist() == centroids_QKD[1].astype(np.float32)[tokens_TQ[:, 1]].tolist()


def test_a_residual_quantises_what_the_codebooks_before_left(random: np.random.Generator) -> None:
    centroids_QKD, frames_TM = random.normal(size=(3, 20, 5)), random.normal(size=(200, 5))
    quantiser = Quantiser(codebook_of(centroids_QKD, combine="residual"))
    tokens_TQ = quantiser.tokens(frames_TM)
    left_TD = frames_TM.astype(np.float32)
    for q, centroids_KD in enumerate(centroids_QKD.astype(np.float32)):
        assert tokens_TQ[:, q].tolist() == brute(left_TD, centroids_KD).tolist()
        left_TD = left_TD - centroids_KD[tokens_TQ[:, q]]
    np.testing.assert_allclose(quantiser.vectors(tokens_TQ), frames_TM - left_TD, atol=1e-5)


@pytest.mark.parametrize("at_a_time", [1, 40, 10_000])
def test_clips_together_have_the_tokens_that_they_have_alone(
    random: np.random.Generator, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.audio.engines.Gemm.rows_at_a_time", at_a_time)
    monkeypatch.setattr("pipeline.audio.quantise.FEWEST_ROWS", at_a_time)
    clips = [random.normal(size=(n, 6)) * 20 - 20 for n in (0, 5, 1, 30, 0, 17)]
    quantiser = Quantiser(codebook_of(random.normal(size=(2, 9, 3)) * 20 - 20, mask=-30.0))
    together = quantiser.tokens_of(clips)
    assert [len(tokens_TQ) for tokens_TQ in together] == [0, 5, 1, 30, 0, 17]
    for frames_TM, tokens_TQ in zip(clips, together, strict=True):
        assert tokens_TQ.tolist() == quantiser.tokens(frames_TM).tolist()
    assert quantiser.tokens_of([]) == []


def test_masked_frames_have_the_token_of_silence_in_every_codebook(
    random: np.random.Generator,
) -> None:
    frames_TM = random.normal(size=(20, 6))
    frames_TM[5:9] = -100
    quantiser = Quantiser(codebook_of(random.normal(size=(2, 9, 3)), mask=-50.0))
    tokens_TQ = quantiser.tokens(frames_TM)
    assert tokens_TQ[5:9].tolist() == [[9, 9]] * 4
    assert np.delete(tokens_TQ, range(5, 9), axis=0).max() < 9
    assert (quantiser.tokens(np.full((3, 6), -100.0)) == 9).all()


def test_all_65536_tokens_are_told_apart() -> None:
    centroids_QKD = np.arange(65_536)[None, :, None]
    tokens_TQ = Quantiser(codebook_of(centroids_QKD)).tokens(np.array([[0.0], [65_535], [7]]))
    assert tokens_TQ.ravel().tolist() == [0, 65_535, 7]


# --- what tokens sound like --------------------------------------------------------------------


def test_a_token_sounds_like_the_mean_of_its_frames(random: np.random.Generator) -> None:
    tokens_NQ = random.integers(0, 5, (300, 1)).astype(np.uint16)
    frames_NM, weights_N = random.normal(size=(300, 8)) * 10 - 50, random.integers(1, 4, 300)
    token_frames_QVM = fit_token_frames(tokens_NQ, frames_NM, weights_N, 7)
    for token in range(5):
        here = tokens_NQ[:, 0] == token
        mean_M = np.average(frames_NM[here], axis=0, weights=weights_N[here])
        np.testing.assert_allclose(token_frames_QVM[0, token], mean_M, rtol=1e-4)
    overall_M = np.average(frames_NM, axis=0, weights=weights_N)
    np.testing.assert_allclose(token_frames_QVM[0, 6], overall_M, rtol=1e-4)


def test_tokens_of_several_codebooks_sound_like_their_sum(random: np.random.Generator) -> None:
    tokens_NQ = random.integers(0, 6, (4_000, 3)).astype(np.uint16)
    true_QVM = random.normal(size=(3, 6, 8)) * 10
    frames_NM = true_QVM[np.arange(3), tokens_NQ].sum(axis=1) - 40
    token_frames_QVM = fit_token_frames(tokens_NQ, frames_NM, np.ones(4_000), 6)
    quantiser = Quantiser(codebook_of(random.normal(size=(3, 6, 2)), sounds=token_frames_QVM))
    np.testing.assert_allclose(quantiser.frames(tokens_NQ), frames_NM, atol=0.05)


# --- the ledger --------------------------------------------------------------------------------


def test_use_says_what_it_says() -> None:
    measured = ledger.token_use(np.array([4.0, 0, 2, 2]))
    assert (measured["used"], measured["dead"]) == (3, 1)
    assert measured["entropy_bits"] == 1.5
    assert measured["perplexity"] == 2**1.5
    assert measured["for_80_percent"] == 3
    assert measured["top10_share"] == 1
    assert measured["counts"] == [4, 0, 2, 2]


@pytest.mark.parametrize("slope", [-1.0, -0.5])
def test_the_zipf_line_of_a_zipf_sample_has_its_slope(slope: float) -> None:
    shares_K = np.arange(1, 501) ** slope
    measured = ledger.zipf(shares_K / shares_K.sum())
    assert measured["slope"] == pytest.approx(slope, abs=1e-6)
    assert measured["r2"] == pytest.approx(1)
    assert ledger.zipf(np.array([0.7, 0.3])) == {"slope": 0.0, "r2": 0.0}


def test_the_silhouette_is_that_of_scikit_learn(random: np.random.Generator) -> None:
    centres = random.normal(size=(6, 4)) * 4
    vectors_ND = (centres[random.integers(0, 6, 300)] + random.normal(size=(300, 4))).astype("f4")
    far = np.full((1, 4), 900, np.float32)  # a token that one vector has
    quantiser = Quantiser(codebook_of(np.concatenate([centres, far])[None]))
    vectors_ND = np.concatenate([vectors_ND, far])
    expected = silhouette_score(vectors_ND, quantiser.tokens(vectors_ND)[:, 0])
    assert ledger.silhouette(vectors_ND, quantiser) == pytest.approx(expected, rel=1e-6)


def test_gaps_are_0_at_a_tie_and_1_at_a_match() -> None:
    quantiser = Quantiser(codebook_of(np.array([[[0.0], [10.0], [1000.0]]])))
    measured = ledger.gaps(np.float32([[5.0], [5.0], [0.0]]), quantiser)
    assert measured["0.01"] == pytest.approx(0, abs=1e-4)
    assert measured["0.9"] == pytest.approx(0.8, abs=1e-3)


def test_the_map_keeps_distances_in_a_plane(random: np.random.Generator) -> None:
    flat_K2 = random.normal(size=(30, 2)) * [5, 1]
    centroids_KD = flat_K2 @ np.linalg.qr(random.normal(size=(7, 7)))[0][:2]
    map_K2 = ledger.pca_map(centroids_KD.astype(np.float32))
    between = [np.linalg.norm(m[:, None] - m[None], axis=2) for m in (map_K2, flat_K2)]
    np.testing.assert_allclose(*between, atol=1e-4)
    assert map_K2[:, 0].var() > map_K2[:, 1].var()
    assert ledger.pca_map(np.float32([[1], [2], [4]])).shape == (3, 2)
