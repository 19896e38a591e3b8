"""Scores over a whole split, computed once from all clips: never a mean over batches.

Legend: N clips, C classes, D numbers that a clip is given. Averaging or pooling AP over batches
once made the predecessor report results near the state of the art that were not there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, ndtri

from configs.errors import InputError
from train.ranking import Doubles, Flags, Scores, lwlrap, per_class_ap, rankings

Floats = npt.NDArray[np.float32]
Tree = dict[str, Any]
HALF = 0.5  # the probability from which on a class is decided, where nothing better is known


def prior_map(targets_NC: Floats) -> float:
    """Macro mAP of a predictor that knows class frequencies only: the same scores for all clips,
    so the AP of a class is its share of positives."""
    shares_C = (targets_NC > 0).mean(axis=0)
    return float(shares_C[shares_C > 0].mean())


def mean_ap(logits_NC: Floats, targets_NC: Floats, task: str) -> float:
    """`map` of `evaluate`, by itself; NaN where no clip has a label."""
    aps_C = per_class_ap(ranked_by(logits_NC, task), targets_NC)
    return float(np.nanmean(aps_C)) if np.isfinite(aps_C).any() else np.nan


def evaluate(
    logits_NC: Floats, targets_NC: Floats, task: str, thresholds_C: Doubles | None = None
) -> Tree:
    """All scores of one split, shares in [0, 1].

    `map` is the macro mean of AP over the `classes_scored` that have positives, `map_weighted` the
    mean by their number of positives, `mauc` the macro mean of the area under the ROC curve and
    `d_prime` = sqrt(2) z(mauc) (None where that is infinite), `lwlrap` the mean precision at which
    a clip's own classes find its labels. Clips are ranked by the probability of a class.

    F1, precision, recall and Hamming score decide a class from probability one half on
    (multilabel) or by the largest score (multiclass, where `accuracy` is given too); the same
    under `tuned`, where thresholds are given. As in scikit-learn, what would be 0 / 0 counts 0.

    Raises InputError for a split without labels, and for logits that are no numbers.
    """
    if not targets_NC.any():
        raise InputError("split: no held-out clip has a label, so there is nothing to score")
    if num_bad := int((~np.isfinite(logits_NC).all(axis=1)).sum()):
        raise InputError(
            f"the model gives no numbers for {num_bad} of {len(logits_NC)} clips: its training "
            "went astray; train it anew, with a lower train.lr"
        )
    ranked, ranked_C = _of_rankings(logits_NC, targets_NC, task)
    decided_NC = decide(logits_NC, task)
    decided, decided_C = _of_decisions(decided_NC, targets_NC)
    scores = ranked | decided | {"per_class": ranked_C | decided_C}
    if thresholds_C is not None:
        at_thresholds_NC = decide(logits_NC, task, thresholds_C)
        scores["tuned"], _ = _of_decisions(at_thresholds_NC, targets_NC)
    if task == "multiclass":
        scores["accuracy"] = float((decided_NC & (targets_NC > 0)).sum() / len(targets_NC))
    return scores


def _of_rankings(logits_NC: Floats, targets_NC: Floats, task: str) -> tuple[Tree, Tree]:
    """Scores, and those of each class."""
    ranked_NC = ranked_by(logits_NC, task)
    found = rankings(ranked_NC, targets_NC)
    aps_C, aucs_C = np.array([r.ap for r in found]), np.array([r.auc for r in found])
    positives_C = (targets_NC > 0).sum(axis=0)
    scored = positives_C > 0
    mauc = float(np.nanmean(aucs_C)) if np.isfinite(aucs_C).any() else None
    scores = {
        "map": float(aps_C[scored].mean()),
        "map_weighted": float(np.average(aps_C[scored], weights=positives_C[scored])),
        "classes_scored": int(scored.sum()),
        "prior_map": prior_map(targets_NC),
        "mauc": mauc,
        "d_prime": None if mauc is None else d_prime(mauc),
        "lwlrap": lwlrap(ranked_NC, targets_NC),
    }
    per_class = {
        name: [None if np.isnan(value) else float(value) for value in values_C]
        for name, values_C in (("ap", aps_C), ("auc", aucs_C))
    }
    return scores, per_class


def _of_decisions(decided_NC: Flags, targets_NC: Floats) -> tuple[Tree, Tree]:
    """The same of what was decided."""
    has_NC = targets_NC > 0
    right_C, decided_C, has_C = (
        flags_NC.sum(axis=0).astype(float) for flags_NC in (decided_NC & has_NC, decided_NC, has_NC)
    )
    counts = {
        "precision": (right_C, decided_C),
        "recall": (right_C, has_C),
        "f1": (2 * right_C, decided_C + has_C),
    }
    shares_C = {name: _shares(part_C, whole_C) for name, (part_C, whole_C) in counts.items()}
    pooled = {
        name: _shares(part_C.sum(), whole_C.sum()) for name, (part_C, whole_C) in counts.items()
    }
    hamming = float((decided_NC == has_NC).mean())
    scores = {f"{name}_macro": float(values_C.mean()) for name, values_C in shares_C.items()}
    scores |= {f"{name}_micro": float(value) for name, value in pooled.items()}
    per_class = {name: values_C.tolist() for name, values_C in shares_C.items()}
    numbers = {"positives": has_C.astype(int).tolist(), "decided": decided_C.astype(int).tolist()}
    return scores | {"hamming": hamming, "hamming_loss": 1.0 - hamming}, per_class | numbers


def _shares(part: Any, whole: Any) -> Doubles:
    return np.asarray(np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0))


def d_prime(auc: float) -> float | None:
    """The distance of two normal distributions of deviation 1 whose ROC curve has this area; None
    where no distance is far enough."""
    distance = float(np.sqrt(2) * ndtri(auc))
    return distance if np.isfinite(distance) else None


def ranked_by(logits_NC: Floats, task: str) -> Scores:
    """What grows with the probability of each class. Logits of several labels do so by themselves;
    of one label they count only beside the others of their clip: the logarithms of softmax, exact
    also where that is 1 but for what no digit holds."""
    if task == "multilabel":
        return logits_NC
    wide_NC = logits_NC.astype(np.float64)
    below_NC = wide_NC - wide_NC.max(axis=1, keepdims=True)
    others_NC = np.exp(below_NC)
    np.put_along_axis(others_NC, wide_NC.argmax(axis=1)[:, None], 0.0, axis=1)
    ranking_NC: Doubles = below_NC - np.log1p(others_NC.sum(axis=1, keepdims=True))
    return ranking_NC


def probabilities(logits_NC: Floats, task: str) -> Doubles:
    """Of each class in each clip."""
    of: Doubles = (
        expit(logits_NC.astype(np.float64))
        if task == "multilabel"
        else np.exp(ranked_by(logits_NC, task))
    )
    return of


def tuned_thresholds(logits_NC: Floats, targets_NC: Floats) -> Doubles:
    """The probability [C] from which on each class is decided for the highest F1 on these clips,
    which must not be those that are scored; one half for a class without positives."""
    found = rankings(probabilities(logits_NC, "multilabel"), targets_NC)
    thresholds_C = np.array([ranking.best_threshold for ranking in found])
    return np.where(np.isnan(thresholds_C), HALF, thresholds_C)


def decide(logits_NC: Floats, task: str, thresholds_C: Doubles | None = None) -> Flags:
    """Which classes each clip is said to have: those from their threshold on (multilabel), or the
    one with the largest score (multiclass)."""
    if task == "multilabel":
        least_C = HALF if thresholds_C is None else thresholds_C
        return np.asarray(probabilities(logits_NC, task) >= least_C)
    decided_NC = np.zeros(logits_NC.shape, dtype=bool)
    decided_NC[np.arange(len(logits_NC)), logits_NC.argmax(axis=1)] = True
    return decided_NC


def regression(predictions_ND: Scores, targets_ND: Scores) -> dict[str, list[float]]:
    """Of each number that a clip is given: mean squared and absolute error, R2, Spearman's rank
    correlation, and Lin's concordance (CCC, Biometrics 1989), which falls where predictions are
    off in mean or spread, too. R2 and both correlations are NaN where targets do not vary."""
    from scipy.stats import rankdata  # half a second that scores of labels need not wait

    guesses_ND, truths_ND = predictions_ND.astype(np.float64), targets_ND.astype(np.float64)
    errors_ND = guesses_ND - truths_ND
    mse_D, variances_D = (errors_ND**2).mean(axis=0), truths_ND.var(axis=0)
    offsets_D = errors_ND.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "mse": mse_D,
            "mae": np.abs(errors_ND).mean(axis=0),
            "r2": np.where(variances_D > 0, 1 - mse_D / variances_D, np.nan),
            "spearman": _correlations(rankdata(guesses_ND, axis=0), rankdata(truths_ND, axis=0)),
            "ccc": 2
            * _covariances(guesses_ND, truths_ND)
            / (guesses_ND.var(axis=0) + variances_D + offsets_D**2),
        }
    return {name: values_D.tolist() for name, values_D in found.items()}


def _covariances(left_ND: Doubles, right_ND: Doubles) -> Doubles:
    centred_ND = left_ND - left_ND.mean(axis=0)
    return np.asarray((centred_ND * (right_ND - right_ND.mean(axis=0))).mean(axis=0))


def _correlations(left_ND: Doubles, right_ND: Doubles) -> Doubles:
    spreads_D = np.sqrt(left_ND.var(axis=0) * right_ND.var(axis=0))
    return np.asarray(_covariances(left_ND, right_ND) / spreads_D)
