"""The bag of tokens: tf-idf of each clip's tokens and logistic regression, from scikit-learn.

Ten CPU-seconds for five folds of ESC-10, and more than every network of the predecessor reached:
what a sequence model has to beat. Fitted weights are kept as plain tensors, not as a pickle.

Legend: N clips, S tokens of all, Q codebooks, K tokens of all codebooks, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from configs.models import BagModel
from train.batches import Rows
from train.data import TokenData

if TYPE_CHECKING:  # it takes most of a second, in which whoever only scores need not wait
    from sklearn.linear_model import LogisticRegression

MAX_ITERATIONS = 1000

Floats = npt.NDArray[np.float32]
Tensors = dict[str, Floats]


def count_tokens(data: TokenData, rows: Rows) -> scipy.sparse.csr_array:
    """How often each token of each codebook occurs in each clip, [N, K]; silence is left out."""
    chunk = data.source.read(rows)
    return counts_of(chunk.flat(), chunk.lengths_N, data.codebook.k)


def counts_of(
    tokens_SQ: npt.NDArray[np.uint16], lengths_N: npt.NDArray[np.integer[Any]], k: int
) -> scipy.sparse.csr_array:
    """The same of clips' tokens, one clip after the other."""
    tokens_SQ = tokens_SQ.astype(np.int64)
    clip_S = np.repeat(np.arange(len(lengths_N)), lengths_N)
    sounds_SQ = tokens_SQ < k  # silence says little of what is heard, and is everywhere
    columns_SQ = tokens_SQ + k * np.arange(tokens_SQ.shape[1])
    clips = np.broadcast_to(clip_S[:, None], tokens_SQ.shape)[sounds_SQ]
    shape = (len(lengths_N), k * tokens_SQ.shape[1])
    ones = np.ones(len(clips))
    return scipy.sparse.csr_array(
        scipy.sparse.coo_array((ones, (clips, columns_SQ[sounds_SQ])), shape)
    )


def fit_bag(config: BagModel, data: TokenData) -> Tensors:
    """Fit on the training clips; returns `idf` [K], `weight` [C, K] and `bias` [C]."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    rows = data.whole(data.rows("train"))
    tfidf = TfidfTransformer(sublinear_tf=True)
    features_NK = tfidf.fit_transform(count_tokens(data, rows))
    targets_NC = data.targets(rows)
    weight_CK = np.zeros((targets_NC.shape[1], features_NK.shape[1]), dtype=np.float32)
    bias_C = prior_logits(targets_NC)
    logistic = LogisticRegression(C=config.inverse_regularisation, max_iter=MAX_ITERATIONS)
    fit = _fit_multiclass if data.task == "multiclass" else _fit_multilabel
    fit(logistic, features_NK, targets_NC, weight_CK, bias_C)
    return {"idf": tfidf.idf_.astype(np.float32), "weight": weight_CK, "bias": bias_C}


def prior_logits(targets_NC: Floats) -> Floats:
    """Smoothed log-odds of each class: all that is known of a class that is never or always
    there."""
    positives_C = targets_NC.sum(axis=0)
    odds_C = (positives_C + 0.5) / (len(targets_NC) - positives_C + 0.5)
    return np.asarray(np.log(odds_C), dtype=np.float32)


def _fit_multiclass(
    logistic: LogisticRegression,
    features_NK: scipy.sparse.csr_array,
    targets_NC: Floats,
    weight_CK: Floats,
    bias_C: Floats,
) -> None:
    """Softmax regression over the classes that occur; fills their weights and biases."""
    classes_N = targets_NC.argmax(axis=1)
    if len(np.unique(classes_N)) < 2:
        return
    logistic.fit(features_NK, classes_N)
    coef, intercept = logistic.coef_, logistic.intercept_
    if len(coef) == 1:  # scikit-learn keeps one row, the second class against the first
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.array([-1, 1]) * intercept / 2
    weight_CK[logistic.classes_], bias_C[logistic.classes_] = coef, intercept


def _fit_multilabel(
    logistic: LogisticRegression,
    features_NK: scipy.sparse.csr_array,
    targets_NC: Floats,
    weight_CK: Floats,
    bias_C: Floats,
) -> None:
    """One regression for each class that some training clips have and some have not."""
    from sklearn.base import clone

    for c in np.flatnonzero(targets_NC.any(axis=0) & ~targets_NC.all(axis=0)):
        one = clone(logistic).fit(features_NK, targets_NC[:, c])
        weight_CK[c], bias_C[c] = one.coef_[0], one.intercept_[0]


def bag_logits(tensors: Tensors, data: TokenData, rows: Rows) -> npt.NDArray[np.float32]:
    """Logits [N, C] of some rows."""
    return logits_of_counts(tensors, count_tokens(data, rows))


def logits_of_counts(
    tensors: Tensors, counts_NK: scipy.sparse.csr_array
) -> npt.NDArray[np.float32]:
    """Logits [N, C] of how often tokens occur in clips."""
    counts_NK = counts_NK.astype(np.float64)
    counts_NK.data = 1.0 + np.log(counts_NK.data)
    weighted_NK = counts_NK.multiply(tensors["idf"][None, :]).tocsr()
    norms_N1 = np.sqrt(weighted_NK.multiply(weighted_NK).sum(axis=1)).reshape(-1, 1)
    logits_NC = (weighted_NK @ tensors["weight"].T) / np.maximum(norms_N1, 1e-12)
    return np.asarray(logits_NC + tensors["bias"], dtype=np.float32)
