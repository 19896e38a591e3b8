"""The ledger of a codebook: how well its tokens stand for frames, and how they are used.

Legend: N frames, M numbers in a frame, D in a vector, Q codebooks, K centroids in each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from pipeline.audio.quantise import Quantiser
from pipeline.audio.steps import VectorsTD
from pipeline.drawn import DrawnRows

ROWS_AT_A_TIME = 65_536
MEASURED_ROWS, MEASURED_A_TOKEN = 2**18, 64  # at most: the larger
SILHOUETTE_FRAMES = 2_048
GAP_FRAMES = 16_384
GAP_QUANTILES = (0.01, 0.1, 0.5, 0.9)
ZIPF_RANKS = (0.1, 0.9)  # of the tokens that are used: where the line is fitted

Floats = npt.NDArray[np.float64]


def measure(rows: DrawnRows, quantiser: Quantiser) -> dict[str, Any]:
    """Errors and token use over drawn frames, the first ones where there are very many. Errors are
    of exact tokens, in float64: equal bits for any number of threads.

    `l2` is the squared distance of a vector, as it is compared, to what its tokens stand for, the
    mean over vectors and their numbers; `cosine` one minus their mean cosine; `db_rms` the root
    mean square difference to the stored frames, in dB.
    """
    most = min(len(rows), max(MEASURED_ROWS, MEASURED_A_TOKEN * quantiser.k))
    parts = [slice(at, at + ROWS_AT_A_TIME) for at in range(0, most, ROWS_AT_A_TIME)]
    errors_E = np.zeros(3)
    tokens, weights = [], []
    for part in parts:
        vectors_ND, weights_N = rows.read(part)
        vectors_ND = quantiser.compared(vectors_ND)
        tokens_NQ = quantiser.quantise(vectors_ND)
        made_ND = quantiser.vectors(tokens_NQ).astype(np.float64)
        off_NM = rows.frames(part) - quantiser.frames(tokens_NQ).astype(np.float64)
        l2_N = ((vectors_ND - made_ND) ** 2).mean(axis=1)
        cosine_N = 1 - _cosines(vectors_ND.astype(np.float64), made_ND)
        errors_E += [(weights_N * e_N).sum() for e_N in (l2_N, cosine_N, (off_NM**2).mean(axis=1))]
        tokens.append(tokens_NQ)
        weights.append(weights_N)
    tokens_NQ, weights_N = np.concatenate(tokens), np.concatenate(weights).astype(np.float64)
    l2, cosine, squares = (errors_E / weights_N.sum()).tolist()
    return {
        "frames": round(weights_N.sum()),
        "l2": l2,
        "cosine": cosine,
        "db_rms": squares**0.5,
        "tokens": [
            token_use(np.bincount(tokens_N, weights_N, quantiser.k).astype(np.float64))
            for tokens_N in tokens_NQ.T
        ],
        "gaps": gaps(rows.read(slice(0, GAP_FRAMES))[0], quantiser),
        "silhouette": silhouette(rows.read(slice(0, SILHOUETTE_FRAMES))[0], quantiser),
    }


def token_use(counts_K: Floats) -> dict[str, Any]:
    """How often tokens occur: `perplexity` is 2 to the entropy of their distribution, `top10_share`
    the share of the ten most frequent, `for_80_percent` how many make up 80 %, `zipf` the line
    through log count over log rank."""
    shares_K = np.sort(counts_K / counts_K.sum())[::-1]
    used_K = shares_K[shares_K > 0]
    entropy_bits = float(-(used_K * np.log2(used_K)).sum())
    return {
        "used": len(used_K),
        "dead": len(counts_K) - len(used_K),
        "entropy_bits": entropy_bits,
        "perplexity": 2**entropy_bits,
        "top10_share": float(shares_K[:10].sum()),
        "for_80_percent": int(np.searchsorted(np.cumsum(shares_K), 0.8)) + 1,
        "zipf": zipf(used_K),
        "counts": np.rint(counts_K).astype(int).tolist(),
    }


def zipf(shares_K: Floats) -> dict[str, float]:
    """Slope and R^2 of log share over log rank, between ZIPF_RANKS; shares are falling."""
    first, last = (int(len(shares_K) * part) for part in ZIPF_RANKS)
    if last - first < 3:
        return {"slope": 0.0, "r2": 0.0}
    ranks = np.log(np.arange(first, last) + 1.0)
    logs = np.log(shares_K[first:last])
    slope = float(np.polyfit(ranks, logs, 1)[0])
    spread = float(np.corrcoef(ranks, logs)[0, 1]) if np.ptp(logs) > 0 else 0.0
    return {"slope": slope, "r2": spread**2}


def gaps(vectors_ND: VectorsTD, quantiser: Quantiser) -> dict[str, float]:
    """Quantiles of how much further the second centroid is than the first, of the first codebook:
    the difference of squared distances over their sum (0: a tie, 1: a match)."""
    first_N, second_N = quantiser.assigners[0].nearest_two(quantiser.part(vectors_ND, 0))
    gap_N = (second_N - first_N) / np.maximum(second_N + first_N, 1e-12)
    return {f"{q:g}": float(np.quantile(gap_N, q)) for q in GAP_QUANTILES}


def silhouette(vectors_ND: VectorsTD, quantiser: Quantiser) -> float:
    """Mean silhouette (Rousseeuw, 1987) of vectors and their tokens of the first codebook, by
    Euclidean distance; a token that one vector has counts 0."""
    vectors_ND = quantiser.part(quantiser.compared(vectors_ND), 0)
    _, cluster_N = np.unique(quantiser.assigners[0].tokens(vectors_ND), return_inverse=True)
    sizes_C = np.bincount(cluster_N)
    if len(sizes_C) < 2:
        return 0.0
    each_NC = scipy.sparse.csr_array(
        (np.ones(len(cluster_N)), (np.arange(len(cluster_N)), cluster_N))
    )
    sums_NC = np.asarray(each_NC.T @ _distances(vectors_ND.astype(np.float64))).T
    own = (np.arange(len(cluster_N)), cluster_N)
    own_size_N = sizes_C[cluster_N]
    inside_N = sums_NC[own] / np.maximum(own_size_N - 1, 1)
    means_NC = sums_NC / sizes_C
    means_NC[own] = np.inf
    outside_N = means_NC.min(axis=1)
    score_N = (outside_N - inside_N) / np.maximum(np.maximum(outside_N, inside_N), 1e-12)
    return float(np.where(own_size_N > 1, score_N, 0.0).mean())


def pca_map(centroids_KD: npt.NDArray[np.float32]) -> Floats:
    """Centroids in the plane of their two directions of largest variance, [K, 2]."""
    centred_KD = centroids_KD - centroids_KD.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centred_KD, full_matrices=False)
    flat = directions[:2] if len(directions) > 1 else np.concatenate([directions, 0 * directions])
    signs = np.sign(flat[np.arange(2), np.abs(flat).argmax(axis=1)])
    return np.asarray(centred_KD @ (flat.T * np.where(signs == 0, 1, signs)))


def _distances(vectors_ND: Floats) -> Floats:
    """Of each two rows, [N, N]."""
    squares_N = np.einsum("nd,nd->n", vectors_ND, vectors_ND)
    between_NN = vectors_ND @ (-2 * vectors_ND.T)
    between_NN += squares_N
    between_NN += squares_N[:, None]
    np.maximum(between_NN, 0, out=between_NN)
    return np.sqrt(between_NN, out=between_NN)


def _cosines(one_ND: Floats, other_ND: Floats) -> Floats:
    """Of the angle between each two rows; 0 where one has no length."""
    products_N, squares_N, other_squares_N = (
        np.einsum("nd,nd->n", x_ND, y_ND)
        for x_ND, y_ND in ((one_ND, other_ND), (one_ND, one_ND), (other_ND, other_ND))
    )
    return np.asarray(products_N / np.maximum(np.sqrt(squares_N * other_squares_N), 1e-30))
