"""Minibatch K-means: batches that double, with carried counts, then passes over everything.

The start draws distinct frames far from each other (`spread`). Each of the first steps takes rows
that no step has seen, as many as all before it, and moves every centroid to the running mean of
what it has won (Sculley, Web-Scale K-Means Clustering, WWW 2010, in batch form), earlier wins
counting for less with each step; once every row was seen, a step is a pass of Lloyd's over all. So
most of the way is gone on few rows (Newling and Fleuret, Nested Mini-Batch K-Means, NIPS 2016).
Centroids that won nothing move to rows far from theirs. It ends when the error on held-out clips
falls no more.

Legend: N rows, B of a batch, D numbers in each, K centroids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse

from configs.codebook import CodebookConfig
from configs.errors import InputError
from pipeline.audio.assign import Assigner, CentroidsKD, TokensT, unit
from pipeline.audio.distinct import distinct
from pipeline.audio.engines import Build, Gemm, Indices
from pipeline.audio.steps import VectorsTD

START_ROWS = 16  # a centroid: what the start is drawn from
FIRST_BATCH_ROWS = 8  # a centroid
CARRIED = 0.25  # weight of earlier counts in the next step
LEAST_GAIN = 1e-3  # over two passes, as a share of the held-out error; less ends them
ROWS_AT_A_TIME = 65_536
FEWEST_ROWS = 4_096

Floats = npt.NDArray[np.float64]
WeightsN = npt.NDArray[np.float32]


class Rows(Protocol):
    """Vectors to learn from, in an order in which any stretch is a fair sample; read in parts."""

    def __len__(self) -> int: ...

    def read(self, rows: slice) -> tuple[VectorsTD, WeightsN]:
        """Some of the vectors [B, D] and how often each counts [B]."""


@dataclass(frozen=True)
class ArrayRows:
    """Rows that are in memory."""

    vectors_ND: VectorsTD
    weights_N: WeightsN

    @classmethod
    def of(cls, vectors_ND: VectorsTD) -> ArrayRows:
        """Equal vectors become one row that counts for all."""
        first, same_N = distinct(vectors_ND)
        return cls(vectors_ND[first], np.bincount(same_N).astype(np.float32))

    def __len__(self) -> int:
        return len(self.vectors_ND)

    def read(self, rows: slice) -> tuple[VectorsTD, WeightsN]:
        return self.vectors_ND[rows], self.weights_N[rows]


@dataclass(frozen=True)
class State:
    """Where training stands after some steps; all that a resume needs."""

    centroids_KD: CentroidsKD
    counts_K: Floats
    step: int = 0
    train_errors: tuple[float, ...] = ()  # of each step's batch, before it
    pass_errors: tuple[float, ...] = ()  # after each pass over all rows, of held-out ones
    is_final: bool = False


@dataclass(frozen=True)
class Trainer:
    """How to train one codebook.

    Args:
        config: `k`, `metric`, `passes` and `seed` are its.
        build: of the engine that assigns.
        number: of the codebook, where there are several.
    """

    config: CodebookConfig
    build: Build = field(default=Gemm)
    number: int = 0

    def start(self, rows: Rows) -> State:
        """Distinct rows, far from each other.

        Raises InputError where there are fewer distinct rows than centroids.
        """
        k = self.config.k
        wanted = max(FEWEST_ROWS, START_ROWS * k)
        while True:
            vectors_ND, weights_N = self._usable(*rows.read(slice(0, wanted)))
            first, same_N = distinct(vectors_ND)
            if len(first) >= k or wanted >= len(rows):
                break
            wanted *= 2
        if len(first) < k:
            raise InputError(self._too_few(len(first)))
        counts_N = np.bincount(same_N, weights=weights_N).astype(np.float64)
        centroids_KD = spread(
            vectors_ND[first], counts_N, k, self.config.metric, self._random(0), self.build
        )
        return State(centroids_KD, np.zeros(k))

    def _too_few(self, num_distinct: int) -> str:
        config = self.config
        if num_distinct == 1:
            return "codebook.front_end makes one and the same vector of all frames: change it"
        found = f"{num_distinct} distinct vectors"
        if self.number and config.combine == "residual":
            return (
                f"codebook.k={config.k}, but codebook {self.number + 1} of {config.codebooks} has "
                f"{found} to learn from, as the ones before left no more: lower k, or codebooks"
            )
        return (
            f"codebook.k={config.k}, but the drawn frames hold {found}: lower k or give more clips"
        )

    def train(self, state: State, rows: Rows, holdout: Rows) -> Iterator[State]:
        """Go on from `state`, yielding the state after every step."""
        while not state.is_final:
            state = self._step(state, rows, holdout)
            yield state

    def schedule(self, num_rows: int) -> list[slice]:
        """The rows of the first steps: new ones in each, as many as in all before it."""
        batches, seen = [], 0
        size = max(FEWEST_ROWS, FIRST_BATCH_ROWS * self.config.k)
        while seen + 2 * size <= num_rows:
            batches.append(slice(seen, seen + size))
            seen += size
            size = seen
        return [*batches, slice(seen, num_rows)] if batches else []

    def _step(self, state: State, rows: Rows, holdout: Rows) -> State:
        batches = self.schedule(len(rows))
        is_pass = state.step >= len(batches)
        batch = slice(0, len(rows)) if is_pass else batches[state.step]
        won = self._won(state.centroids_KD, rows, batch, self._random(state.step + 1))
        carried_K = np.zeros(self.config.k) if is_pass else state.counts_K * CARRIED
        centroids_KD, counts_K = self._moved(state.centroids_KD, carried_K, won)
        moved = replace(
            state,
            centroids_KD=centroids_KD,
            counts_K=counts_K,
            step=state.step + 1,
            train_errors=(*state.train_errors, won.error),
        )
        return self._judged(moved, holdout) if is_pass else moved

    def _judged(self, state: State, holdout: Rows) -> State:
        """After a pass: with its held-out error, or where nothing is held out, the error of its
        own assignment, which is that of the centroids before it."""
        error = self._error(state.centroids_KD, holdout) if len(holdout) else state.train_errors[-1]
        errors = (*state.pass_errors, error)
        stands = len(errors) > 2 and errors[-1] > (1 - LEAST_GAIN) * errors[-3]
        return replace(
            state, pass_errors=errors, is_final=stands or len(errors) >= self.config.passes
        )

    def _won(
        self, centroids_KD: CentroidsKD, rows: Rows, batch: slice, random: np.random.Generator
    ) -> _ClusterSums:
        """What each centroid wins of a batch, and rows that lie far from theirs."""
        won = _ClusterSums.of_nothing(centroids_KD)
        for vectors_BD, weights_B, tokens_B, shares_B in self._assigned(centroids_KD, rows, batch):
            won.add(vectors_BD, weights_B, tokens_B, shares_B)
            won.keep_far(vectors_BD, shares_B, random)
        return won

    def _error(self, centroids_KD: CentroidsKD, rows: Rows) -> float:
        """Of all rows."""
        total = weight = 0.0
        for _, weights_B, _, shares_B in self._assigned(centroids_KD, rows, slice(0, len(rows))):
            total += float(shares_B.sum())
            weight += float(weights_B.sum(dtype=np.float64))
        return total / max(weight, 1e-30)

    def _assigned(
        self, centroids_KD: CentroidsKD, rows: Rows, batch: slice
    ) -> Iterator[tuple[VectorsTD, WeightsN, TokensT, Floats]]:
        """A batch in parts: vectors, weights, tokens, and each row's share of the error, which is
        the squared distance, or under `cosine` half of it: 1 - cos."""
        assigner = Assigner(centroids_KD, self.config.metric, self.build)
        scale = 0.5 if self.config.metric == "cosine" else 1.0
        for begin in range(batch.start, batch.stop, ROWS_AT_A_TIME):
            part = slice(begin, min(begin + ROWS_AT_A_TIME, batch.stop))
            vectors_BD, weights_B = self._usable(*rows.read(part))
            tokens_B, distances_B = assigner.nearest(vectors_BD)
            yield (
                vectors_BD,
                weights_B,
                tokens_B,
                scale * distances_B.astype(np.float64) * weights_B,
            )

    def _moved(
        self, centroids_KD: CentroidsKD, carried_K: Floats, won: _ClusterSums
    ) -> tuple[CentroidsKD, Floats]:
        """Means of what was won now and, by their counts, before; under `cosine` all that was won
        before counts as if it lay at the centroid."""
        counts_K = carried_K + won.counts_K
        has_any = counts_K > 0
        sums_KD = carried_K[:, None] * centroids_KD + won.sums_KD
        moved_KD = centroids_KD.astype(np.float64)
        moved_KD[has_any] = sums_KD[has_any] / counts_K[has_any, None]
        dead = np.flatnonzero(won.counts_K == 0)[: len(won.far_FD)]
        moved_KD[dead] = won.far_FD[: len(dead)]
        counts_K[dead] = 0  # what a moved centroid won elsewhere must not hold it back
        new_KD = moved_KD.astype(np.float32)
        return unit(new_KD) if self.config.metric == "cosine" else new_KD, counts_K

    def _usable(self, vectors_BD: VectorsTD, weights_B: WeightsN) -> tuple[VectorsTD, WeightsN]:
        """A vector of zeros has no direction: under cosine it teaches nothing."""
        if self.config.metric == "l2":
            return vectors_BD, weights_B
        has_length = np.any(vectors_BD != 0, axis=1)
        return unit(vectors_BD[has_length]), weights_B[has_length]

    def _random(self, stream: int) -> np.random.Generator:
        key = np.array([self.config.seed, (self.number << 32) + stream], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))


def spread(
    vectors_ND: VectorsTD,
    weights_N: Floats,
    k: int,
    metric: str,
    random: np.random.Generator,
    build: Build = Gemm,
) -> CentroidsKD:
    """K of N distinct vectors, drawn in rounds that double their number.

    Each round draws by the squared distance to the nearest of those before, as k-means++ does one
    by one (Arthur and Vassilvitskii, SODA 2007) and k-means|| in rounds (Bahmani et al., VLDB
    2012); what is drawn stays, so that a whole start costs one assignment of N vectors.
    """
    first = random.choice(len(vectors_ND), p=weights_N / weights_N.sum())
    chosen, new = np.array([first]), np.array([first])
    distance_N = np.full(len(vectors_ND), np.inf)
    while len(chosen) < k:
        _, to_new_N = Assigner(vectors_ND[new], metric, build).nearest(vectors_ND)
        np.minimum(distance_N, to_new_N, out=distance_N)
        distance_N[chosen] = 0
        new = _race(distance_N * weights_N, min(len(chosen), k - len(chosen)), random)
        if len(new) == 0:  # what is left differs by less than float32 can tell: any will do
            left = np.setdiff1d(np.arange(len(vectors_ND)), chosen)
            new = random.permutation(left)[: k - len(chosen)]
        chosen = np.concatenate([chosen, new])
    return np.ascontiguousarray(vectors_ND[chosen])


def _race(shares_N: Floats, most: int, random: np.random.Generator) -> Indices:
    """Up to `most` of those whose share is not 0, without repeats, drawn in proportion."""
    rings_N = _rings(shares_N, random)
    most = min(most, int((shares_N > 0).sum()))
    return np.sort(np.argpartition(rings_N, most - 1)[:most]) if most else np.zeros(0, np.int64)


def _rings(shares_N: Floats, random: np.random.Generator) -> Floats:
    """When exponential clocks of these rates ring first; never, at a rate of 0. The first to ring
    are a draw in proportion, without repeats (Efraimidis and Spirakis, 2006)."""
    rings_N = np.full(len(shares_N), np.inf)
    np.divide(random.standard_exponential(len(shares_N)), shares_N, out=rings_N, where=shares_N > 0)
    return rings_N


@dataclass
class _ClusterSums:
    """What centroids won of a batch, summed up part by part; and F rows far from theirs, with
    the times at which their clocks rang."""

    sums_KD: Floats
    counts_K: Floats
    far_FD: VectorsTD
    rings_F: Floats
    weight: float = 0.0
    total_error: float = 0.0

    @classmethod
    def of_nothing(cls, centroids_KD: CentroidsKD) -> Self:
        k = len(centroids_KD)
        return cls(np.zeros(centroids_KD.shape), np.zeros(k), centroids_KD[:0], np.zeros(0))

    @property
    def error(self) -> float:
        """The mean over rows."""
        return self.total_error / max(self.weight, 1e-30)

    def add(
        self, vectors_BD: VectorsTD, weights_B: WeightsN, tokens_B: TokensT, shares_B: Floats
    ) -> None:
        """Rows, their tokens, and their shares of the error. Sums are float32 within a part."""
        self.total_error += float(shares_B.sum())
        self.weight += float(weights_B.sum(dtype=np.float64))
        k = len(self.counts_K)
        order_B = np.argsort(tokens_B, kind="stable")  # by radix
        starts_K = np.concatenate([[0], np.cumsum(np.bincount(tokens_B, minlength=k))])
        each_KB = scipy.sparse.csr_array(
            (weights_B[order_B], order_B, starts_K), shape=(k, len(vectors_BD))
        )
        self.sums_KD += each_KB @ vectors_BD
        self.counts_K += np.bincount(tokens_B, weights=weights_B, minlength=k)

    def keep_far(
        self, vectors_BD: VectorsTD, shares_B: Floats, random: np.random.Generator
    ) -> None:
        """Rows drawn in proportion to their share of the error, as many as might be wanted."""
        most = 16 + len(self.counts_K) // 8
        rings_B = _rings(shares_B, random)
        best = np.argsort(rings_B, kind="stable")[:most]
        best = best[np.isfinite(rings_B[best])]
        rings_F = np.concatenate([self.rings_F, rings_B[best]])
        far_FD = np.concatenate([self.far_FD, vectors_BD[best]])
        first = np.argsort(rings_F, kind="stable")[:most]
        self.rings_F, self.far_FD = rings_F[first], far_FD[first]
