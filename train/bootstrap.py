"""How much a score owes to the clips that happened to be held out: a bootstrap over clips.

Clips are drawn with replacement, as many as there are, and scored again, REPLICATES times, which is
enough for a standard error (Efron and Tibshirani, 1993, chapter 6). Intervals are the score and
1.96 standard errors to each side, and not percentiles: positives that are drawn twice rank
together, so that AP over draws is higher than over clips.

Which clips are drawn depends on their number alone: scores of two models on the same clips, in the
same order, are of the same draws, and so their differences have intervals, too.

Legend: N clips, C classes, B replicates, G groups of equal scores that hold positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from train.ranking import Doubles, Flags, Scores

REPLICATES = 200
DEVIATIONS = 1.96  # to each side: 95 % of a normal distribution

CountsNB = npt.NDArray[np.uint8]


def interval(score: float, replicates_B: Doubles) -> tuple[float, float]:
    """The 95 % interval of a share in [0, 1]."""
    reach = DEVIATIONS * float(np.nanstd(replicates_B, ddof=1))
    return max(0.0, score - reach), min(1.0, score + reach)


def share_replicates(is_right_N: Flags) -> Doubles:
    """The share [B] of clips of which something is true, as accuracy."""
    return np.asarray(is_right_N.astype(float) @ _draws(len(is_right_N)) / len(is_right_N))


def map_replicates(scores_NC: Scores, targets_NC: Scores) -> Doubles:
    """Macro mAP [B]; a class of which a draw holds no positive is not in its mean."""
    scored = targets_NC.any(axis=0)
    scores_CN = np.ascontiguousarray(scores_NC.T[scored])
    has_CN = np.ascontiguousarray(targets_NC.T[scored] > 0)
    return mean_known([*map(partial(_aps, _draws(len(scores_NC))), scores_CN, has_CN)])


def mean_known(replicates: Sequence[Doubles]) -> Doubles:
    """The mean [B] over what is a number in each replicate; NaN where nothing is."""
    values_XB = np.stack(replicates)
    with np.errstate(invalid="ignore"):  # of nothing: 0 / 0
        return np.asarray(np.nansum(values_XB, axis=0) / np.isfinite(values_XB).sum(axis=0))


def _aps(counts_NB: CountsNB, scores_N: Scores, has_N: Flags) -> Doubles:
    """Average precision [B] of one class, each clip as often as it was drawn."""
    order_N = np.argsort(-scores_N, kind="stable")
    places_P = np.flatnonzero(has_N[order_N])
    descending_N = -scores_N[order_N]
    ends_P = np.searchsorted(descending_N, descending_N[places_P], "right")
    ends_G, firsts_G = np.unique(ends_P, return_index=True)
    found_GB = _sums(counts_NB[order_N[: ends_G[-1]]], np.append(0, ends_G[:-1])).cumsum(axis=0)
    right_GB = _sums(counts_NB[order_N[places_P]], firsts_G)
    precision_GB = right_GB.cumsum(axis=0) / np.maximum(found_GB, 1)
    with np.errstate(invalid="ignore"):  # where no positive was drawn: 0 / 0
        return np.asarray((right_GB * precision_GB).sum(axis=0) / right_GB.sum(axis=0))


def _sums(counts_NB: CountsNB, starts_G: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    return np.asarray(np.add.reduceat(counts_NB, starts_G, axis=0, dtype=np.int64))


def _draws(num_clips: int) -> CountsNB:
    """How often each clip is drawn."""
    random = np.random.default_rng(num_clips)
    counts_NB = np.empty((num_clips, REPLICATES), np.uint8)
    for replicate in range(REPLICATES):
        drawn_N = random.integers(num_clips, size=num_clips)
        counts_NB[:, replicate] = np.bincount(drawn_N, minlength=num_clips)
    return counts_NB
