"""Scores equal scikit-learn's, over whole splits: a batch or a pool of classes decides nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from train.metrics import evaluate, per_class_ap, prior_map

Floats = np.ndarray[Any, np.dtype[np.float32]]


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


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_ap_is_scikit_learns_and_classes_without_positives_have_none(seed: int) -> None:
    logits_NC, targets_NC = made(seed)
    scored = targets_NC.any(axis=0)
    aps_C = per_class_ap(logits_NC, targets_NC)
    expected = average_precision_score(targets_NC[:, scored], logits_NC[:, scored], average=None)
    np.testing.assert_allclose(aps_C[scored], expected)
    assert np.isnan(aps_C[~scored]).all()
    scores = evaluate(logits_NC, targets_NC, "multilabel")
    assert scores["map"] == pytest.approx(np.mean(expected))
    assert scores["classes_scored"] == scored.sum()
    assert [ap is None for ap in scores["per_class_ap"]] == (~scored).tolist()
    assert scores["positives"] == targets_NC.sum(axis=0).tolist()


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_decisions_are_scored_as_scikit_learn_scores_them(task: str, seed: int) -> None:
    logits_NC, targets_NC = made(seed, task)
    scores = evaluate(logits_NC, targets_NC, task)
    decided_NC = logits_NC > 0
    if task == "multiclass":
        decided_NC = np.eye(6)[logits_NC.argmax(axis=1)] > 0
        right = accuracy_score(targets_NC.argmax(axis=1), logits_NC.argmax(axis=1))
        assert scores["accuracy"] == pytest.approx(right)
    truth_NC = targets_NC > 0
    for average in ("micro", "macro"):
        expected = f1_score(truth_NC, decided_NC, average=average, zero_division=0)
        assert scores[f"f1_{average}"] == pytest.approx(expected)
    assert scores["hamming"] == pytest.approx((truth_NC == decided_NC).mean())


def test_map_is_not_the_pooled_ap() -> None:
    """The predecessor pooled all classes: on its own frequent classes, noise then scored high."""
    random = np.random.default_rng(0)
    share_C = np.array([0.9, 0.6, 0.02, 0.02, 0.02, 0.02])
    targets_NC = (random.random((2000, 6)) < share_C).astype(np.float32)
    logits_NC = (share_C + 0.01 * random.standard_normal((2000, 6))).astype(np.float32)
    pooled = average_precision_score(targets_NC.ravel(), logits_NC.ravel())
    assert pooled > 0.7
    assert evaluate(logits_NC, targets_NC, "multilabel")["map"] == pytest.approx(
        share_C.mean(), abs=0.03
    )


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_the_prior_is_what_any_constant_predictor_scores(seed: int) -> None:
    logits_NC, targets_NC = made(seed)
    constant_NC = np.repeat(logits_NC[:1], len(logits_NC), axis=0)
    scores = evaluate(constant_NC, targets_NC, "multilabel")
    prevalence = targets_NC[:, targets_NC.any(axis=0)].mean(axis=0).mean()
    assert scores["map"] == pytest.approx(prevalence)
    assert scores["prior_map"] == prior_map(targets_NC) == pytest.approx(prevalence)


def test_a_predictor_of_shuffled_labels_scores_near_the_prior() -> None:
    random = np.random.default_rng(0)
    targets_NC = (random.random((4000, 8)) < 0.1).astype(np.float32)
    shuffled_NC = random.permutation(targets_NC) + random.random(targets_NC.shape) / 10
    scores = evaluate(shuffled_NC.astype(np.float32), targets_NC, "multilabel")
    assert scores["map"] == pytest.approx(scores["prior_map"], abs=0.02)
    assert evaluate(targets_NC - 0.5, targets_NC, "multilabel")["map"] == 1.0


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_clips_of_one_label_are_ranked_by_its_probability(seed: int) -> None:
    """Logits of a clip may all be larger than those of another, and say the same."""
    logits_NC, targets_NC = made(seed, "multiclass")
    shift_N1 = np.random.default_rng(seed).normal(0, 5, (len(logits_NC), 1))
    shares_NC = softmax(logits_NC.astype(np.float64), axis=1)
    scored = targets_NC.any(axis=0)
    expected = average_precision_score(targets_NC[:, scored], shares_NC[:, scored], average=None)
    scores = evaluate((logits_NC + shift_N1).astype(np.float32), targets_NC, "multiclass")
    assert scores["map"] == pytest.approx(np.mean(expected), abs=1e-4)
    unshifted = evaluate(logits_NC, targets_NC, "multiclass")
    found = [ap for ap in unshifted["per_class_ap"] if ap is not None]
    np.testing.assert_allclose(found, expected)


def test_a_probability_of_nearly_one_is_no_tie() -> None:
    logits_NC = np.array([[60, 0], [50, 0], [40, 0]], dtype=np.float32)
    targets_NC = np.eye(2, dtype=np.float32)[[0, 1, 0]]
    assert evaluate(logits_NC, targets_NC, "multiclass")["per_class_ap"][0] == pytest.approx(5 / 6)
