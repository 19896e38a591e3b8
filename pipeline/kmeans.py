"""Minibatch K-means with carried counts; faiss finds the nearest centroids, on CPU or GPU.

Each batch moves a centroid to the running mean of the vectors that it has won (Sculley, Web-Scale
K-Means Clustering, WWW 2010, in batch form), so no batch overwrites what earlier ones taught.
Batches double in size from pass to pass and counts are halved between passes, which lets
centroids leave the place where chance put them. Under `cosine` centroids are scaled to unit
length at every step. Centroids that won nothing in a pass move to the vectors worst served.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from configs.errors import InputError
from configs.schema import CodebookConfig
from pipeline.audio.assign import ROWS_AT_A_TIME, Assigner, CentroidsKD, TokensT, unit
from pipeline.audio.front_end import VectorsTD

COUNT_DECAY = 0.5  # between passes


@dataclass(frozen=True)
class State:
    """Where training stands after `passes` whole passes; all that a resume needs."""

    centroids_KD: CentroidsKD
    counts_K: npt.NDArray[np.float64]
    passes: int


def start(vectors_ND: VectorsTD, config: CodebookConfig) -> State:
    """Distinct vectors drawn by the seed: digital silence alone is often a tenth of all frames,
    and equal starts would have to be split again.

    Raises InputError where there are fewer distinct vectors than centroids.
    """
    if not np.isfinite(vectors_ND).all():
        raise InputError("the frames hold NaN or infinite values: the frame store is damaged")
    distinct_ND = np.unique(_usable(vectors_ND, config), axis=0)
    if len(distinct_ND) < config.k:
        raise InputError(
            f"codebook.k={config.k}, but the drawn frames hold {len(distinct_ND)} distinct "
            "vectors: lower k or give more clips"
        )
    chosen_K = _generator(config, 0).choice(len(distinct_ND), size=config.k, replace=False)
    return State(distinct_ND[np.sort(chosen_K)], np.zeros(config.k), 0)


def train(
    state: State, vectors_ND: VectorsTD, config: CodebookConfig, device: str
) -> Iterator[State]:
    """Go on from `state`, yielding the state after every pass up to `config.passes`."""
    vectors_ND = _usable(vectors_ND, config)
    for number in range(state.passes, config.passes):
        state = _one_pass(state, vectors_ND, config, device, number)
        yield state


def _one_pass(
    state: State, vectors_ND: VectorsTD, config: CodebookConfig, device: str, number: int
) -> State:
    order = _generator(config, number + 1).permutation(len(vectors_ND))
    num_batches = max(1, -(-len(order) // (config.batch_frames << number)))
    counts_K = state.counts_K * COUNT_DECAY
    before_K = counts_K.copy()
    centroids_KD = state.centroids_KD
    for rows in np.array_split(order, num_batches):
        batch_BD = vectors_ND[rows]
        nearest_B, distances_B = Assigner(centroids_KD, config.metric, device).nearest(batch_BD)
        centroids_KD, counts_K = _update(centroids_KD, counts_K, batch_BD, nearest_B)
        centroids_KD = _scaled(centroids_KD, config)
    dead_K = np.flatnonzero(counts_K == before_K)
    centroids_KD = _reseed(centroids_KD, dead_K, batch_BD, distances_B)
    counts_K[dead_K] = 0  # what a moved centroid won elsewhere must not hold it back
    return State(centroids_KD, counts_K, number + 1)


def _update(
    centroids_KD: CentroidsKD,
    counts_K: npt.NDArray[np.float64],
    batch_BD: VectorsTD,
    nearest_B: npt.NDArray[np.int64],
) -> tuple[CentroidsKD, npt.NDArray[np.float64]]:
    """Running means in float64, summed in the order of the batch."""
    order_B = np.argsort(nearest_B, kind="stable")
    won, starts = np.unique(nearest_B[order_B], return_index=True)
    sums_WD = np.add.reduceat(batch_BD[order_B].astype(np.float64), starts, axis=0)
    new_W1 = np.diff([*starts, len(order_B)])[:, None]
    old_W1 = counts_K[won, None]
    centroids_KD = centroids_KD.copy()
    centroids_KD[won] = (old_W1 * centroids_KD[won] + sums_WD) / (old_W1 + new_W1)
    counts_K = counts_K.copy()
    counts_K[won] += new_W1[:, 0]
    return centroids_KD, counts_K


def _reseed(
    centroids_KD: CentroidsKD,
    dead_K: npt.NDArray[np.int64],
    batch_BD: VectorsTD,
    distances_B: npt.NDArray[np.float32],
) -> CentroidsKD:
    """Move dead centroids onto distinct vectors of the batch, the worst served first."""
    if len(dead_K) == 0:
        return centroids_KD
    worst_B = np.argsort(-distances_B, kind="stable")
    _, first = np.unique(batch_BD[worst_B], axis=0, return_index=True)
    places = worst_B[np.sort(first)][: len(dead_K)]
    centroids_KD = centroids_KD.copy()
    centroids_KD[dead_K[: len(places)]] = batch_BD[places]
    return centroids_KD


def measure(
    centroids_KD: CentroidsKD, vectors_ND: VectorsTD, metric: str
) -> dict[str, float | int]:
    """How well a codebook serves some vectors.

    `error` is the mean squared distance (l2, dB squared for stored frames) or one minus the mean
    cosine; `perplexity` is 2 to the entropy of the token distribution; `used` counts centroids
    that are the nearest of at least one vector. All are of the exact tokens, in float64: equal bits
    for any number of threads.
    """
    tokens_N = Assigner(centroids_KD, metric).tokens(vectors_ND)
    share_K = np.bincount(tokens_N, minlength=len(centroids_KD)) / len(vectors_ND)
    positive = share_K[share_K > 0]
    error = _squared_distances(centroids_KD, vectors_ND, tokens_N, metric) / len(vectors_ND)
    return {
        "vectors": len(vectors_ND),
        "error": error if metric == "l2" else error / 2,
        "perplexity": float(2 ** -(positive * np.log2(positive)).sum()),
        "used": len(positive),
        "top10_share": float(np.sort(share_K)[-10:].sum()),
    }


def _squared_distances(
    centroids_KD: CentroidsKD, vectors_ND: VectorsTD, tokens_N: TokensT, metric: str
) -> float:
    """The sum over vectors of the squared distance to their centroids; under `cosine` both are
    scaled to unit length."""
    total = 0.0
    for start in range(0, len(vectors_ND), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        vectors_TD = unit(vectors_ND[rows]) if metric == "cosine" else vectors_ND[rows]
        off_TD = vectors_TD.astype(np.float64) - centroids_KD[tokens_N[rows]]
        total += float((off_TD**2).sum())
    return total


def resumed(tensors: dict[str, npt.NDArray[np.generic]]) -> State:
    """The state that `tensors` holds, as `to_tensors` made it."""
    return State(
        tensors["centroids"].astype(np.float32),
        tensors["counts"].astype(np.float64),
        int(tensors["passes"][0]),
    )


def to_tensors(state: State) -> dict[str, npt.NDArray[np.generic]]:
    return {
        "centroids": state.centroids_KD,
        "counts": state.counts_K,
        "passes": np.array([state.passes], dtype=np.int64),
    }


def _usable(vectors_ND: VectorsTD, config: CodebookConfig) -> VectorsTD:
    """The vectors to learn from. A zero vector has no direction: under cosine it teaches nothing,
    and as a centroid it would be no unit vector."""
    if config.metric == "cosine":
        vectors_ND = vectors_ND[np.any(vectors_ND != 0, axis=1)]
    return _scaled(vectors_ND, config)


def _scaled(vectors_ND: VectorsTD, config: CodebookConfig) -> VectorsTD:
    return unit(vectors_ND) if config.metric == "cosine" else vectors_ND


def _generator(config: CodebookConfig, stream: int) -> np.random.Generator:
    key = np.array([config.seed, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
