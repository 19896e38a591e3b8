"""Scores that go by the order of items alone: average precision, area under the ROC curve, lwlrap.

Each is a sum over positives, which are few: values are sorted, positives are looked up among them,
and no permutation is made. Of equal scores all count as found together, as in scikit-learn.

Legend: N clips, C classes, P positives of one class, ascending by score.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
PAIRS_AT_ONCE = 4_096  # clip and label, each beside all classes of the clip


@dataclass(frozen=True)
class Ranking:
    """One class: the scores of all clips, and of those that have it, both ascending."""

    scores_N: Scores
    scores_P: Scores

    @classmethod
    def of(cls, scores_N: Scores, is_positive_N: Flags) -> Ranking:
        return cls(np.sort(scores_N), np.sort(scores_N[is_positive_N]))

    @cached_property
    def num_below_P(self) -> npt.NDArray[np.int64]:  # noqa: N802 - its shape
        """How many clips score lower than each positive."""
        return np.searchsorted(self.scores_N, self.scores_P, "left")

    @property
    def num_found_P(self) -> npt.NDArray[np.int64]:  # noqa: N802
        """How many clips score as high as each positive, or higher."""
        return len(self.scores_N) - self.num_below_P

    @property
    def num_right_P(self) -> npt.NDArray[np.int64]:  # noqa: N802
        """And how many of those are positive."""
        return len(self.scores_P) - np.searchsorted(self.scores_P, self.scores_P, "left")

    @property
    def ap(self) -> float:
        """Average precision: the mean, over positives, of the precision where each is found. NaN
        without positives."""
        if not len(self.scores_P):
            return np.nan
        return float((self.num_right_P / self.num_found_P).mean())

    @property
    def auc(self) -> float:
        """Area under the ROC curve: the share of pairs of a positive and a negative that are in
        order, pairs with equal scores counted half. NaN where one of them is missing."""
        num_positives = len(self.scores_P)
        num_pairs = num_positives * (len(self.scores_N) - num_positives)
        if not num_pairs:
            return np.nan
        upto_P = np.searchsorted(self.scores_N, self.scores_P, "right")
        of_pairs = (self.num_below_P + upto_P).sum() - num_positives**2  # less those of positives
        return float(of_pairs / 2 / num_pairs)

    @property
    def best_threshold(self) -> float:
        """The score from which on a class should be decided for the highest F1, half way to the
        next lower score; of several the highest. NaN without positives."""
        if not len(self.scores_P):
            return np.nan
        f1_P = 2 * self.num_right_P / (self.num_found_P + len(self.scores_P))
        best = int(np.flatnonzero(f1_P == f1_P.max())[-1])
        score, num_below = float(self.scores_P[best]), int(self.num_below_P[best])
        lower = float(self.scores_N[num_below - 1]) if num_below else 0.0
        return (score + lower) / 2


def rankings(scores_NC: Scores, targets_NC: Scores) -> list[Ranking]:
    """One a class."""
    scores_CN, has_CN = np.ascontiguousarray(scores_NC.T), np.ascontiguousarray(targets_NC.T > 0)
    return [Ranking.of(scores_N, has_N) for scores_N, has_N in zip(scores_CN, has_CN, strict=True)]


def per_class_ap(scores_NC: Scores, targets_NC: Scores) -> Doubles:
    """Average precision [C] of each class, NaN for a class without a positive clip."""
    return np.array([ranking.ap for ranking in rankings(scores_NC, targets_NC)])


def lwlrap(scores_NC: Scores, targets_NC: Scores) -> float:
    """Label-weighted label-ranking average precision: the mean, over all labels of all clips, of
    the precision at which a clip's classes find the label. NaN without labels.

    Formula: the baseline of DCASE 2019, task 2.
    """
    clip_L, class_L = np.nonzero(targets_NC)
    if not len(clip_L):
        return np.nan
    total = 0.0
    for start in range(0, len(clip_L), PAIRS_AT_ONCE):
        here = slice(start, start + PAIRS_AT_ONCE)
        clips, classes = clip_L[here], class_L[here]
        is_found_LC = scores_NC[clips] >= scores_NC[clips, classes][:, None]
        num_right_L = (is_found_LC & (targets_NC[clips] > 0)).sum(axis=1)
        total += float((num_right_L / is_found_LC.sum(axis=1)).sum())
    return total / len(clip_L)
