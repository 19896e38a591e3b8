"""What a page shows of logits and labels: curves, calibration, what is taken for what.

Legend: N clips, C classes, P positives of a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from train.metrics import decide, probabilities, ranked_by
from train.ranking import Doubles, Flags, Ranking, rankings

Json = dict[str, Any]
FloatsNC = npt.NDArray[np.float32]
CURVE_POINTS = 40  # positives of a class, at most
GRID = np.linspace(0, 1, 41)  # on which curves of several classes are averaged
BINS = 10  # of probability
MOST_CLASSES = 24  # beside each other in a matrix
MOST_PAIRS = 20
DIGITS = 4


@dataclass(frozen=True)
class Scored:
    """The clips that a model was scored on, in the order of its `scores.parquet`."""

    ids: tuple[str, ...]
    logits_NC: FloatsNC
    targets_NC: FloatsNC
    task: str
    thresholds_C: Doubles | None

    @cached_property
    def has_NC(self) -> Flags:  # noqa: N802 - its shape
        return self.targets_NC > 0

    @cached_property
    def decided_NC(self) -> Flags:  # noqa: N802
        """By tuned thresholds, where there are any."""
        return decide(self.logits_NC, self.task, self.thresholds_C)

    @cached_property
    def probabilities_NC(self) -> Doubles:  # noqa: N802
        return probabilities(self.logits_NC, self.task)

    @property
    def losses_N(self) -> Doubles:  # noqa: N802
        """Cross-entropy of each clip: of its label, or summed over classes."""
        logits_NC = self.logits_NC.astype(np.float64)
        if self.task == "multiclass":
            of_label_NC = np.where(self.has_NC, ranked_by(self.logits_NC, self.task), 0.0)
            return np.asarray(-of_label_NC.sum(axis=1))
        signed_NC = np.where(self.has_NC, -logits_NC, logits_NC)
        return np.asarray(np.logaddexp(0.0, signed_NC).sum(axis=1))


def curves(scored: Scored) -> Json:
    """PR and ROC curves of every class with positives (None for others), at some of its positives,
    and their means over classes on a grid of recall or false positive rate."""
    ranked_NC = ranked_by(scored.logits_NC, scored.task)
    found = rankings(ranked_NC, scored.targets_NC)
    known = [ranking for ranking in found if len(ranking.scores_P)]
    both = [ranking for ranking in known if len(ranking.scores_P) < len(ranking.scores_N)]
    return {
        "classes": [_curve(ranking) if len(ranking.scores_P) else None for ranking in found],
        "grid": rounded(GRID),
        "precision": rounded(np.mean([_precision_at(ranking) for ranking in known], axis=0)),
        "true_positive_rate": rounded(
            np.mean([_true_positive_rate_at(ranking) for ranking in both], axis=0)
        )
        if both
        else [],
    }


def _curve(ranking: Ranking) -> Json:
    """From the highest score down, through the corners before each positive: recall, precision and
    false positive rate."""
    num_positives, num_clips = len(ranking.scores_P), len(ranking.scores_N)
    num_above_P = num_clips - np.searchsorted(ranking.scores_N, ranking.scores_P, "right")
    num_right_above_P = num_positives - np.searchsorted(ranking.scores_P, ranking.scores_P, "right")
    ends_P2 = np.stack([num_above_P, ranking.num_found_P], axis=1)[::-1]
    right_P2 = np.stack([num_right_above_P, ranking.num_right_P], axis=1)[::-1]
    chosen = np.unique(np.linspace(0, num_positives - 1, CURVE_POINTS).round().astype(int))
    found = np.concatenate([[0], ends_P2[chosen].ravel(), [num_clips]])
    right = np.concatenate([[0], right_P2[chosen].ravel(), [num_positives]])
    precision = right / np.maximum(found, 1)
    precision[found == 0] = precision[np.argmax(right > 0)]  # where nothing is found yet
    return {
        "recall": rounded(right / num_positives),
        "precision": rounded(precision),
        "false_positive_rate": rounded((found - right) / max(1, num_clips - num_positives)),
    }


def _points(ranking: Ranking) -> tuple[Doubles, Doubles, Doubles]:
    right_P = ranking.num_right_P[::-1].astype(float)
    found_P = ranking.num_found_P[::-1].astype(float)
    num_negatives = max(1, len(ranking.scores_N) - len(ranking.scores_P))
    return right_P / len(right_P), right_P / found_P, (found_P - right_P) / num_negatives


def _precision_at(ranking: Ranking) -> Doubles:
    """Where each recall of the grid is reached first."""
    recall_P, precision_P, _ = _points(ranking)
    return np.asarray(precision_P[np.searchsorted(recall_P, GRID - 1e-12)])


def _true_positive_rate_at(ranking: Ranking) -> Doubles:
    """The recall that each false positive rate of the grid allows."""
    recall_P, _, false_P = _points(ranking)
    allowed = np.searchsorted(false_P, GRID, "right")
    return np.append(0.0, recall_P)[allowed]


def calibration(scored: Scored) -> Json:
    """How often what was said with some probability is true: of the chosen label (multiclass), or
    of every class in every clip. `error` is the mean distance, weighted by count (ECE; Guo et al.,
    ICML 2017)."""
    said_NC, true_NC = scored.probabilities_NC, scored.has_NC
    if scored.task == "multiclass":
        chosen_NC = scored.decided_NC
        said_NC, true_NC = said_NC[chosen_NC], true_NC[chosen_NC]
    said, true = said_NC.ravel(), true_NC.ravel()
    bin_of = np.minimum((said * BINS).astype(int), BINS - 1)
    counts = np.bincount(bin_of, minlength=BINS)
    at_least = np.maximum(counts, 1)
    mean_said = np.bincount(bin_of, said, BINS) / at_least
    mean_true = np.bincount(bin_of, true, BINS) / at_least
    error = float((np.abs(mean_said - mean_true) * counts).sum() / counts.sum())
    return {
        "said": rounded(mean_said),
        "true": rounded(mean_true),
        "counts": counts.tolist(),
        "error": error,
    }


def confusion(scored: Scored) -> Json:
    """Of the clips that have a class, the share said to have another one that they have not; on the
    diagonal, the share for which the class itself is said. The most frequent classes beside each
    other, and of all classes the pairs that are mistaken most often."""
    has_NC, decided_NC = scored.has_NC, scored.decided_NC
    wrong_NC = (decided_NC & ~has_NC).astype(np.float32)
    mistaken_CC = (has_NC.astype(np.float32).T @ wrong_NC).astype(int)
    without_CC = has_NC.astype(np.float32).T @ (~has_NC).astype(np.float32)
    shares_CC = mistaken_CC / np.maximum(without_CC, 1)
    positives_C, right_C = has_NC.sum(axis=0), (has_NC & decided_NC).sum(axis=0)
    np.fill_diagonal(shares_CC, right_C / np.maximum(positives_C, 1))
    shown = np.sort(np.argsort(-positives_C, kind="stable")[:MOST_CLASSES])
    shown = shown[positives_C[shown] > 0]
    most = np.argsort(-mistaken_CC, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [(*map(int, np.unravel_index(flat, mistaken_CC.shape)),) for flat in most]
    return {
        "shown": shown.tolist(),
        "shares": [rounded(row) for row in shares_CC[np.ix_(shown, shown)]],
        "pairs": [[*pair, int(mistaken_CC[pair])] for pair in pairs if mistaken_CC[pair]],
    }


def per_class_f1(scored: Scored) -> list[float]:
    """F1 of every class as decided."""
    has_NC, decided_NC = scored.has_NC, scored.decided_NC
    right_C, all_C = (has_NC & decided_NC).sum(axis=0), has_NC.sum(axis=0) + decided_NC.sum(axis=0)
    return rounded(2 * right_C / np.maximum(all_C, 1))


def rounded(values: npt.NDArray[Any]) -> list[float]:
    """For a page: no more digits than can be seen."""
    return [round(float(value), DIGITS) for value in values]
