"""What pages show of scores: the curves of scikit-learn, calibration, what is taken for what."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as peer
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from train.pages.page import page
from train.pages.scores import Scored, calibration, confusion, curves, per_class_f1

cases = given(seed=st.integers(0, 10_000))
some = settings(max_examples=20)


def made(seed: int, task: str = "multilabel", thresholds: Any = None) -> Scored:
    """Clips of 4 classes with ties, of which the last has no positive."""
    random = np.random.default_rng(seed)
    num_clips = int(random.integers(5, 60))
    targets_NC = np.zeros((num_clips, 4), np.float32)
    if task == "multiclass":
        targets_NC[np.arange(num_clips), random.integers(3, size=num_clips)] = 1
    else:
        targets_NC[:, :3] = random.random((num_clips, 3)) < 0.4
        targets_NC[0, :3] = 1
    logits_NC = (random.standard_normal((num_clips, 4)) + targets_NC).round(1) + 0.03  # no bin ends
    ids = tuple(f"clip{n}" for n in range(num_clips))
    return Scored(ids, logits_NC.astype(np.float32), targets_NC, task, thresholds)


@some
@cases
def test_curves_go_through_points_of_scikit_learns(seed: int) -> None:
    scored = made(seed)
    found = curves(scored)
    assert found["classes"][3] is None
    for c in range(3):
        one = found["classes"][c]
        truth_N, score_N = scored.has_NC[:, c], scored.logits_NC[:, c]
        precision, recall, _ = peer.precision_recall_curve(truth_N, score_N)
        of_theirs = {(round(r, 4), round(p, 4)) for r, p in zip(recall, precision, strict=True)}
        reached = {*zip(one["recall"], one["precision"], strict=True)}
        assert sum(point in of_theirs for point in reached) >= len(reached) - 1
        assert one["recall"][-1] == 1
        if truth_N.all():
            continue
        false, true, _ = peer.roc_curve(truth_N, score_N, drop_intermediate=False)
        of_theirs = {(round(f, 4), round(t, 4)) for f, t in zip(false, true, strict=True)}
        ours = [*zip(one["false_positive_rate"], one["recall"], strict=True)]
        assert {*ours} <= of_theirs
        assert (ours[0], ours[-1]) == ((0, 0), (1, 1))
        area = np.trapezoid(one["recall"], one["false_positive_rate"])
        assert area == pytest.approx(peer.roc_auc_score(truth_N, score_N), abs=1e-3)
    assert np.all(np.diff(found["true_positive_rate"]) >= 0)
    assert len(found["precision"]) == len(found["grid"])


def test_the_mean_curve_is_that_of_the_class_where_there_is_one() -> None:
    scored = Scored(
        ("a", "b", "c", "d"),
        np.array([[4], [3], [2], [1]], np.float32),
        np.array([[1], [0], [1], [0]], np.float32),
        "multilabel",
        None,
    )
    found = curves(scored)
    at = dict(zip(found["grid"], found["precision"], strict=True))
    assert (at[0.0], at[0.5]) == (1, 1)
    assert at[1.0] == pytest.approx(2 / 3, abs=1e-4)
    hits = dict(zip(found["grid"], found["true_positive_rate"], strict=True))
    assert (hits[0.0], hits[0.5], hits[1.0]) == (0.5, 1, 1)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@some
@cases
def test_calibration_is_scikit_learns(task: str, seed: int) -> None:
    scored = made(seed, task)
    found = calibration(scored)
    said, true = scored.probabilities_NC, scored.has_NC
    if task == "multiclass":
        chosen = said.argmax(axis=1)
        rows = np.arange(len(said))
        said, true = said[rows, chosen], true[rows, chosen]
    expected_true, expected_said = calibration_curve(true.ravel(), said.ravel(), n_bins=10)
    filled = np.array(found["counts"]) > 0
    np.testing.assert_allclose(np.array(found["said"])[filled], expected_said, atol=1e-4)
    np.testing.assert_allclose(np.array(found["true"])[filled], expected_true, atol=1e-4)
    assert sum(found["counts"]) == said.size
    assert 0 <= found["error"] <= 1


@some
@cases
def test_of_one_label_confusion_is_the_usual_matrix(seed: int) -> None:
    scored = made(seed, "multiclass")
    found = confusion(scored)
    truth_N, decided_N = scored.targets_NC.argmax(axis=1), scored.logits_NC.argmax(axis=1)
    matrix = peer.confusion_matrix(truth_N, decided_N, labels=range(4))
    shown = found["shown"]
    expected = matrix[np.ix_(shown, shown)] / matrix[shown].sum(axis=1)[:, None]
    np.testing.assert_allclose(found["shares"], expected, atol=1e-4)
    np.fill_diagonal(matrix, 0)
    assert sum(count for _, _, count in found["pairs"]) == matrix.sum()
    assert all(matrix[i, j] == count for i, j, count in found["pairs"])


def test_of_several_labels_what_a_clip_has_is_no_mistake() -> None:
    targets_NC = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    decided_NC = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]], np.float32)
    scored = Scored(tuple("abcd"), decided_NC - 0.5, targets_NC, "multilabel", None)
    found = confusion(scored)
    assert found["shown"] == [0, 1, 2]
    assert found["shares"][0] == [pytest.approx(2 / 3, abs=1e-4), 0.5, 0]
    assert found["shares"][1] == [0, 1, 0]
    assert found["shares"][2] == [0, 1, 1]
    assert found["pairs"] == [[0, 1, 1], [2, 1, 1]]


@some
@cases
def test_losses_and_decisions_are_what_training_and_eval_have(seed: int) -> None:
    scored = made(seed)
    expected = [
        peer.log_loss(true_C.ravel(), said_C.ravel(), labels=[0, 1], normalize=False)
        for true_C, said_C in zip(scored.has_NC, scored.probabilities_NC, strict=True)
    ]
    np.testing.assert_allclose(scored.losses_N, expected)
    one = made(seed, "multiclass")
    expected = [
        -np.log(said_C[true_C][0])
        for true_C, said_C in zip(one.has_NC, one.probabilities_NC, strict=True)
    ]
    np.testing.assert_allclose(one.losses_N, expected)
    found = peer.f1_score(scored.has_NC, scored.logits_NC >= 0, average=None, zero_division=0)
    np.testing.assert_allclose(per_class_f1(scored), found, atol=1e-4)
    none = made(seed, thresholds=np.full(4, 1.1))
    assert per_class_f1(none) == [0, 0, 0, 0]


def test_nothing_in_titles_or_data_ends_a_script_and_nothing_may_be_fetched() -> None:
    evil = "</script><script>alert('x')</script>"
    text = page("report.html", evil, {"name": evil}).decode()
    assert evil not in text
    found = re.search(r"^const DATA = (.*);$", text, re.MULTILINE)
    assert found is not None
    assert json.loads(found[1]) == {"name": evil}
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}


def test_numbers_that_a_page_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        page("report.html", "", {"map": float("nan")})
