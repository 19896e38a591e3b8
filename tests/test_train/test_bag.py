"""The bag of tokens is scikit-learn's own pipeline, kept as plain tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from configs.models import BagModel
from train.bag import bag_logits, count_tokens, fit_bag
from train.batches import Rows
from train.data import TokenData
from train.metrics import evaluate

BAG = BagModel(kind="bag")
MakeData = Callable[..., TokenData]


def counted(data: TokenData, rows: Rows) -> Any:
    return np.stack([np.bincount(c[:, 0], minlength=16) for c in data.source.read(rows).clips()])


def fitted(data: TokenData) -> tuple[Any, Rows]:
    """Logits of the bag for the test clips, and their rows."""
    rows = data.rows("test")
    return bag_logits(fit_bag(BAG, data), data, rows), rows


def test_tokens_are_counted(random_data: MakeData) -> None:
    data = random_data((20, 5, 5))
    rows = data.rows("valid")
    np.testing.assert_array_equal(count_tokens(data, rows).toarray(), counted(data, rows))


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_logits_of_held_out_clips_are_scikit_learns(task: str, random_data: MakeData) -> None:
    data = random_data((80, 0, 30), task=task)
    train = data.rows("train")
    logits_NC, rows = fitted(data)
    logistic = LogisticRegression(C=BAG.inverse_regularisation, max_iter=1000)
    head = logistic if task == "multiclass" else OneVsRestClassifier(logistic)
    targets = data.targets(train)
    pipeline = make_pipeline(TfidfTransformer(sublinear_tf=True), head)
    pipeline.fit(counted(data, train), targets.argmax(axis=1) if task == "multiclass" else targets)
    expected_NC = pipeline.decision_function(counted(data, rows))
    np.testing.assert_allclose(logits_NC, expected_NC, rtol=1e-4, atol=1e-4)
    assert evaluate(logits_NC, data.targets(rows), task)["map"] > 0.6


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_a_class_that_training_never_saw_is_scored_all_the_same(
    task: str, make_data: MakeData
) -> None:
    clips = [[n % 3, n % 3, 7] for n in range(24)] + [[9], [0, 0, 7], [1, 1, 7]]
    labels = [[n % 3] for n in range(24)] + [[3], [0], [1]]
    data = make_data(clips, labels, (24, 0, 3), task=task)
    logits_NC, rows = fitted(data)
    scores = evaluate(logits_NC, data.targets(rows), task)
    assert 0 < scores["map"] <= 1
    assert logits_NC[:, 3].max() < logits_NC[1, 0], "an unseen class must not be predicted"


def test_two_classes_are_told_apart(make_data: MakeData) -> None:
    clips = [[n % 2] * 3 for n in range(24)]
    labels = [[n % 2] for n in range(24)]
    data = make_data(clips, labels, (20, 0, 4), num_classes=2, task="multiclass")
    logits_NC, rows = fitted(data)
    assert evaluate(logits_NC, data.targets(rows), data.task)["accuracy"] == 1.0


def test_a_label_on_every_training_clip_is_predicted(make_data: MakeData) -> None:
    clips = [[n % 2] * 3 for n in range(24)]
    labels = [[0, 1 + n % 2] for n in range(24)]
    data = make_data(clips, labels, (20, 0, 4), num_classes=3)
    logits_NC, rows = fitted(data)
    assert evaluate(logits_NC, data.targets(rows), data.task)["hamming"] == 1.0


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_one_class_alone_can_be_fitted(task: str, make_data: MakeData) -> None:
    data = make_data([[n % 3] for n in range(12)], [[2]] * 12, (10, 0, 2), task=task)
    logits_NC, _ = fitted(data)
    assert (logits_NC.argmax(axis=1) == 2).all()
