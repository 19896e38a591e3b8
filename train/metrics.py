"""Scores over a whole split, computed once from all clips: never a mean over batches.

Legend: N clips, C classes. Averaging or pooling AP over batches once made the predecessor report
results near the state of the art that were not there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, f1_score, hamming_loss

from configs.errors import InputError

Floats = npt.NDArray[np.float32]


def per_class_ap(
    scores_NC: npt.NDArray[np.floating[Any]], targets_NC: Floats
) -> npt.NDArray[np.float64]:
    """Average precision of each class, NaN for a class without a positive clip."""
    aps_C = np.full(targets_NC.shape[1], np.nan)
    for c in np.flatnonzero(targets_NC.any(axis=0)):
        aps_C[c] = average_precision_score(targets_NC[:, c], scores_NC[:, c])
    return aps_C


def prior_map(targets_NC: Floats) -> float:
    """Macro mAP of a predictor that knows class frequencies only: the same scores for all clips,
    so the AP of a class is its share of positives."""
    constant_NC = np.tile(targets_NC.mean(axis=0), (len(targets_NC), 1))
    return float(np.nanmean(per_class_ap(constant_NC, targets_NC)))


def mean_ap(logits_NC: Floats, targets_NC: Floats, task: str) -> float:
    """`map` of `evaluate`, by itself; NaN where no clip has a label."""
    return float(np.nanmean(per_class_ap(_ranking(logits_NC, task), targets_NC)))


def evaluate(logits_NC: Floats, targets_NC: Floats, task: str) -> dict[str, Any]:
    """All scores of one split, shares in [0, 1].

    `map` is the macro mean of AP over the `classes_scored` that have positives; clips are ranked by
    the probability of a class. F1 and Hamming score decide a class at probability one half
    (multilabel) or by the largest score (multiclass, where `accuracy` is given too). Raises
    InputError for a split without labels.
    """
    if not targets_NC.any():
        raise InputError("split: no held-out clip has a label, so there is nothing to score")
    aps_C = per_class_ap(_ranking(logits_NC, task), targets_NC)
    decided_NC = _decide(logits_NC, task)
    scores = {
        "map": float(np.nanmean(aps_C)),
        "classes_scored": int(np.isfinite(aps_C).sum()),
        "prior_map": prior_map(targets_NC),
        "f1_micro": float(f1_score(targets_NC, decided_NC, average="micro", zero_division=0)),
        "f1_macro": float(f1_score(targets_NC, decided_NC, average="macro", zero_division=0)),
        "hamming": 1.0 - float(hamming_loss(targets_NC, decided_NC)),
        "per_class_ap": [None if np.isnan(ap) else float(ap) for ap in aps_C],
        "positives": targets_NC.sum(axis=0).astype(int).tolist(),
    }
    if task == "multiclass":
        scores["accuracy"] = float((decided_NC * targets_NC).sum() / len(targets_NC))
    return scores


def _ranking(logits_NC: Floats, task: str) -> npt.NDArray[np.float64]:
    """What grows with the probability of each class. Logits of several labels do so by themselves;
    of one label they count only beside the others of their clip: the logarithms of softmax, exact
    also where that is 1 but for what no digit holds."""
    wide_NC = logits_NC.astype(np.float64)
    if task == "multilabel":
        return wide_NC
    below_NC = wide_NC - wide_NC.max(axis=1, keepdims=True)
    others_NC = np.exp(below_NC)
    np.put_along_axis(others_NC, wide_NC.argmax(axis=1)[:, None], 0.0, axis=1)
    ranking_NC: npt.NDArray[np.float64] = below_NC - np.log1p(others_NC.sum(axis=1, keepdims=True))
    return ranking_NC


def _decide(logits_NC: Floats, task: str) -> npt.NDArray[np.int8]:
    if task == "multilabel":
        return (logits_NC > 0).astype(np.int8)
    decided_NC = np.zeros(logits_NC.shape, dtype=np.int8)
    decided_NC[np.arange(len(logits_NC)), logits_NC.argmax(axis=1)] = 1
    return decided_NC
