"""Scores equal scikit-learn's, over whole splits: a batch or a pool of classes decides nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics as peer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from scipy.stats import norm, spearmanr

from configs.errors import InputError
from train.metrics import (
    decide,
    evaluate,
    mean_ap,
    prior_map,
    probabilities,
    regression,
    tuned_thresholds,
)
from train.ranking import lwlrap, per_class_ap

Floats = np.ndarray[Any, np.dtype[np.float32]]

cases = given(seed=st.integers(0, 10_000))
some = settings(max_examples=30)


def made(seed: int, task: str = "multilabel", num_classes: int = 6) -> tuple[Floats, Floats]:
    """Logits with ties, and targets in which the last class has no positive clip."""
    random = np.random.default_rng(seed)
    num_clips = int(random.integers(4, 40))
    logits_NC = random.standard_normal((num_clips, num_classes)).round(1).astype(np.float32)
    if task == "multiclass":
        targets_NC = np.eye(num_classes)[random.integers(num_classes - 1, size=num_clips)]
    else:
        targets_NC = random.random((num_clips, num_classes)) < 0.3
        targets_NC[0, 0] = True
        targets_NC[:, -1] = False
    return logits_NC, targets_NC.astype(np.float32)


@some
@cases
def test_ap_is_scikit_learns_and_classes_without_positives_have_none(seed: int) -> None:
    logits_NC, targets_NC = made(seed)
    scored = targets_NC.any(axis=0)
    aps_C = per_class_ap(logits_NC, targets_NC)
    truth_NC, shown_NC = targets_NC[:, scored], logits_NC[:, scored]
    expected = peer.average_precision_score(truth_NC, shown_NC, average=None)
    np.testing.assert_allclose(aps_C[scored], expected, atol=1e-12)
    assert np.isnan(aps_C[~scored]).all()
    scores = evaluate(logits_NC, targets_NC, "multilabel")
    assert scores["map"] == pytest.approx(np.mean(expected), abs=1e-12)
    weighted = peer.average_precision_score(truth_NC, shown_NC, average="weighted")
    assert scores["map_weighted"] == pytest.approx(weighted, abs=1e-12)
    assert scores["classes_scored"] == scored.sum()
    assert [ap is None for ap in scores["per_class"]["ap"]] == (~scored).tolist()
    assert scores["per_class"]["positives"] == targets_NC.sum(axis=0).tolist()


@some
@cases
def test_areas_and_ranks_of_labels_are_scikit_learns(seed: int) -> None:
    logits_NC, targets_NC = made(seed)
    scores = evaluate(logits_NC, targets_NC, "multilabel")
    both = targets_NC.any(axis=0) & ~targets_NC.all(axis=0)
    expected = peer.roc_auc_score(targets_NC[:, both], logits_NC[:, both], average=None)
    found = np.array([np.nan if auc is None else auc for auc in scores["per_class"]["auc"]])
    np.testing.assert_allclose(found[both], expected, atol=1e-12)
    assert np.isnan(found[~both]).all()
    assert scores["mauc"] == pytest.approx(np.mean(expected), abs=1e-12)
    if scores["d_prime"] is not None:
        assert norm.cdf(scores["d_prime"] / np.sqrt(2)) == pytest.approx(scores["mauc"])
    weights_N = targets_NC.sum(axis=1)
    ranked = peer.label_ranking_average_precision_score(
        targets_NC, logits_NC, sample_weight=weights_N
    )
    assert scores["lwlrap"] == pytest.approx(ranked, abs=1e-12)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@some
@cases
def test_decisions_are_scored_as_scikit_learn_scores_them(task: str, seed: int) -> None:
    logits_NC, targets_NC = made(seed, task)
    scores = evaluate(logits_NC, targets_NC, task)
    decided_NC = logits_NC >= 0
    if task == "multiclass":
        decided_NC = np.eye(6)[logits_NC.argmax(axis=1)] > 0
        right = peer.accuracy_score(targets_NC.argmax(axis=1), logits_NC.argmax(axis=1))
        assert scores["accuracy"] == pytest.approx(right)
    truth_NC = targets_NC > 0
    expected = {
        "f1": peer.f1_score,
        "precision": peer.precision_score,
        "recall": peer.recall_score,
    }
    for name, score in expected.items():
        for average in ("micro", "macro"):
            value = score(truth_NC, decided_NC, average=average, zero_division=0)
            assert scores[f"{name}_{average}"] == pytest.approx(value)
        of_class_C = score(truth_NC, decided_NC, average=None, zero_division=0)
        np.testing.assert_allclose(scores["per_class"][name], of_class_C)
    assert scores["hamming_loss"] == pytest.approx(peer.hamming_loss(truth_NC, decided_NC))
    assert scores["hamming"] == pytest.approx(1 - scores["hamming_loss"])


@some
@cases
def test_no_threshold_gives_a_higher_f1_than_the_tuned_one(seed: int) -> None:
    logits_NC, targets_NC = made(seed)
    thresholds_C = tuned_thresholds(logits_NC, targets_NC)
    decided_NC = decide(logits_NC, "multilabel", thresholds_C)
    shares_NC = expit(logits_NC.astype(np.float64))
    for c in np.flatnonzero(targets_NC.any(axis=0)):
        truth_N = targets_NC[:, c] > 0
        best = max(peer.f1_score(truth_N, shares_NC[:, c] >= cut) for cut in shares_NC[:, c])
        assert peer.f1_score(truth_N, decided_NC[:, c]) == pytest.approx(best)
    assert thresholds_C[~targets_NC.any(axis=0)] == pytest.approx(0.5)
    assert ((thresholds_C > 0) & (thresholds_C < 1)).all()


def test_thresholds_are_frozen_and_scored_beside_one_half() -> None:
    targets_NC = np.array([[1], [1], [0], [0]], dtype=np.float32)
    logits_NC = np.array([[-1], [-2], [-3], [-4]], dtype=np.float32)
    thresholds_C = tuned_thresholds(logits_NC, targets_NC)
    assert thresholds_C == pytest.approx((expit(-2) + expit(-3)) / 2)
    scores = evaluate(logits_NC, targets_NC, "multilabel", thresholds_C)
    assert (scores["f1_macro"], scores["tuned"]["f1_macro"]) == (0.0, 1.0)
    others = evaluate(logits_NC - 1, targets_NC, "multilabel", thresholds_C)
    assert others["tuned"]["recall_macro"] == 0.5, "they are not tuned on what is scored"


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), batch=st.integers(4, 40))
def test_map_is_no_mean_over_batches_and_no_pool_of_classes(seed: int, batch: int) -> None:
    """The predecessor's bug: per batch or pooled over classes, noise scores high. Whatever the
    batches, a constant predictor is worth the prior, and no more."""
    random = np.random.default_rng(seed)
    share_C = np.array([0.9, 0.6, 0.02, 0.02, 0.02, 0.02])
    targets_NC = (random.random((2000, 6)) < share_C).astype(np.float32)
    logits_NC = (share_C + 0.01 * random.standard_normal((2000, 6))).astype(np.float32)
    pooled = peer.average_precision_score(targets_NC.ravel(), logits_NC.ravel())
    cut = [slice(start, start + batch) for start in range(0, len(targets_NC), batch)]
    batches = [mean_ap(logits_NC[c], targets_NC[c], "multilabel") for c in cut[:-1]]
    found = evaluate(
        np.concatenate([logits_NC[c] for c in cut]),
        np.concatenate([targets_NC[c] for c in cut]),
        "multilabel",
    )
    assert found["map"] == pytest.approx(share_C.mean(), abs=0.04)
    assert found["map"] == pytest.approx(found["prior_map"], abs=0.04)
    assert pooled > 0.7, "what was reported"
    assert np.nanmean(batches) > found["map"] + 0.03, "and what a mean over batches makes of it"


@some
@cases
def test_the_prior_is_what_any_constant_predictor_scores(seed: int) -> None:
    logits_NC, targets_NC = made(seed)
    constant_NC = np.repeat(logits_NC[:1], len(logits_NC), axis=0)
    scores = evaluate(constant_NC, targets_NC, "multilabel")
    prevalence = targets_NC[:, targets_NC.any(axis=0)].mean(axis=0).mean()
    assert scores["map"] == pytest.approx(prevalence)
    assert scores["prior_map"] == prior_map(targets_NC) == pytest.approx(prevalence)
    assert scores["mauc"] == pytest.approx(0.5)
    assert scores["d_prime"] == pytest.approx(0, abs=1e-12)


def test_a_predictor_of_shuffled_labels_scores_near_the_prior() -> None:
    random = np.random.default_rng(0)
    targets_NC = (random.random((4000, 8)) < 0.1).astype(np.float32)
    shuffled_NC = random.permutation(targets_NC) + random.random(targets_NC.shape) / 10
    scores = evaluate(shuffled_NC.astype(np.float32), targets_NC, "multilabel")
    assert scores["map"] == pytest.approx(scores["prior_map"], abs=0.02)
    assert scores["mauc"] == pytest.approx(0.5, abs=0.02)
    perfect = evaluate(targets_NC - 0.5, targets_NC, "multilabel")
    assert perfect["map"] == perfect["mauc"] == perfect["lwlrap"] == perfect["f1_macro"] == 1.0
    assert perfect["d_prime"] is None, "no distance is far enough"


@some
@cases
def test_clips_of_one_label_are_ranked_by_its_probability(seed: int) -> None:
    """Logits of a clip may all be larger than those of another, and say the same."""
    logits_NC, targets_NC = made(seed, "multiclass")
    shift_N1 = np.random.default_rng(seed).normal(0, 5, (len(logits_NC), 1))
    shares_NC = softmax(logits_NC.astype(np.float64), axis=1)
    np.testing.assert_allclose(probabilities(logits_NC, "multiclass"), shares_NC)
    scored = targets_NC.any(axis=0)
    expected = peer.average_precision_score(
        targets_NC[:, scored], shares_NC[:, scored], average=None
    )
    scores = evaluate((logits_NC + shift_N1).astype(np.float32), targets_NC, "multiclass")
    assert scores["map"] == pytest.approx(np.mean(expected), abs=1e-4)
    unshifted = evaluate(logits_NC, targets_NC, "multiclass")
    found = [ap for ap in unshifted["per_class"]["ap"] if ap is not None]
    np.testing.assert_allclose(found, expected)


def test_a_probability_of_nearly_one_is_no_tie() -> None:
    logits_NC = np.array([[60, 0], [50, 0], [40, 0]], dtype=np.float32)
    targets_NC = np.eye(2, dtype=np.float32)[[0, 1, 0]]
    assert evaluate(logits_NC, targets_NC, "multiclass")["per_class"]["ap"][0] == pytest.approx(
        5 / 6
    )


def test_what_cannot_be_scored_is_refused() -> None:
    logits_NC, targets_NC = made(0)
    with pytest.raises(InputError, match="no held-out clip has a label"):
        evaluate(logits_NC, targets_NC * 0, "multilabel")
    logits_NC[1, 2] = np.nan
    with pytest.raises(InputError, match=rf"no numbers for 1 of {len(logits_NC)} clips.*train\.lr"):
        evaluate(logits_NC, targets_NC, "multilabel")
    assert np.isnan(lwlrap(logits_NC, targets_NC * 0))


@some
@cases
def test_regression_is_scored_as_scikit_learn_and_scipy_score_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    truths_ND = random.standard_normal((int(random.integers(3, 50)), 2)).round(1)
    guesses_ND = (0.5 * truths_ND + random.standard_normal(truths_ND.shape)).round(1)
    found = regression(guesses_ND, truths_ND)
    peers = {
        "mse": peer.mean_squared_error,
        "mae": peer.mean_absolute_error,
        "r2": peer.r2_score,
    }
    for name, score in peers.items():
        expected = score(truths_ND, guesses_ND, multioutput="raw_values")
        np.testing.assert_allclose(found[name], expected, atol=1e-9)
    for d in range(2):
        truth_N, guess_N = truths_ND[:, d], guesses_ND[:, d]
        expected = spearmanr(truth_N, guess_N).statistic
        assert found["spearman"][d] == pytest.approx(expected, nan_ok=True)
        covariance = np.cov(truth_N, guess_N, bias=True)
        offset = truth_N.mean() - guess_N.mean()
        expected = 2 * covariance[0, 1] / (np.trace(covariance) + offset**2)
        assert found["ccc"][d] == pytest.approx(expected)


def test_targets_that_do_not_vary_have_no_correlation() -> None:
    found = regression(np.array([[1.0], [2.0]]), np.array([[3.0], [3.0]]))
    assert found["mse"] == [2.5]
    assert np.isnan(found["r2"][0])
    assert np.isnan(found["spearman"][0])
    assert found["ccc"] == [0.0]
