"""From vectors to tokens: the index of the nearest centroid, the same on every CPU and GPU.

Engines search in float32, where kernels round differently; rows whose best scores lie closer
together than rounding can move them are decided again in float64, in a fixed order, lowest index
on a tie. That reference is what a token means, whichever engine found it.

Legend: T vectors, D numbers in each, E of what an engine compares, K centroids, P pairs of a
vector and a centroid.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.audio import cells
from pipeline.audio.distinct import distinct
from pipeline.audio.engines import (
    SMALLEST,
    UNIT_ROUNDOFF,
    Build,
    Engine,
    Floats,
    Gemm,
    Indices,
    RowsTE,
    rounding_terms,
)
from pipeline.audio.steps import VectorsTD
from pipeline.audio.threads import one_blas_thread

REFERENCE_ROUNDOFF = 2.0**-53
LARGEST = float(np.finfo(np.float32).max)
RESCORE_PAIRS = 65_536
MOST_CENTROIDS = 65_536  # as uint16 counts

CentroidsKD = npt.NDArray[np.float32]
DistancesT = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
TokensT = npt.NDArray[np.uint16]


class Assigner:
    """Nearest centroids under `l2`, or under `cosine` (centroids of unit length).

    Rounding errors grow with the lengths of what is multiplied, so centroids are centred at their
    mean m. Under `cosine` the nearest has the largest x.(c - m), whatever the length of x. Under
    `l2` it has the largest (x - m).(c - m) - |c - m|^2 / 2: the last term becomes one more number
    of each centroid, beside a 1 in each vector. Of equal centroids the first stands for all.
    """

    def __init__(self, centroids_KD: CentroidsKD, metric: str, build: Build = Gemm) -> None:
        if not 1 <= len(centroids_KD) <= MOST_CENTROIDS:
            raise ValueError(f"1 to {MOST_CENTROIDS} centroids, not {len(centroids_KD)}")
        self.metric = metric
        self.k = len(centroids_KD)
        self._given_KD = np.asarray(centroids_KD, dtype=np.float32)
        self._number_K, _ = distinct(self._given_KD)
        self._centroids_KD = self._given_KD[self._number_K]
        exact_KD = self._centroids_KD.astype(np.float64)
        mean_D = exact_KD.mean(axis=0).astype(np.float32)
        weight_KE = exact_KD - mean_D
        self._mean_E = np.append(mean_D, np.float32(0))
        self._largest_norm = float(np.linalg.norm(weight_KE, axis=1).max())
        self._largest_given = float(np.linalg.norm(exact_KD, axis=1).max())
        if metric == "l2":
            bias_K1 = -(weight_KE**2).sum(axis=1, keepdims=True) / 2
            weight_KE = np.concatenate([weight_KE, bias_K1], axis=1)
        self._weight_KE = weight_KE.astype(np.float32)
        self._gemm = Gemm(self._weight_KE)
        self.engine: Engine = self._gemm if build is Gemm else build(self._weight_KE)

    def tokens(self, vectors_TD: VectorsTD) -> TokensT:
        """Tokens [T] uint16 of vectors [T, D]: exact, lowest index on a tie.

        Raises ValueError for NaN or infinite values.
        """
        engine = self._engine_for(len(vectors_TD))
        parts = _in_parts(vectors_TD, engine)
        search = partial(self._search, engine)
        with one_blas_thread:
            if len(parts) == 1 or engine.num_threads == 1:
                found = [search(part_TD) for part_TD in parts]
            else:
                with ThreadPoolExecutor(engine.num_threads) as pool:
                    found = list(pool.map(search, parts))
        found_T = np.concatenate([found_P for found_P, _ in found])
        starts = np.cumsum([0, *map(len, parts)])[:-1]
        close = np.concatenate(
            [start + close_P for start, (_, close_P) in zip(starts, found, strict=True)]
        )
        if len(close):
            found_T[close] = self._decide(vectors_TD[close])
        return np.asarray(self._number_K[found_T], dtype=np.uint16)

    @property
    def rows_at_a_time(self) -> int:
        """How many vectors `tokens` should have at once, if there are so many."""
        many = cells.rows_at_a_time(len(self._centroids_KD))
        return many if self._uses_cells(many) else self.engine.rows_at_a_time

    def _engine_for(self, num_rows: int) -> Engine:
        """The engine that was asked for; of a CPU, and for enough rows, behind one that rules most
        centroids out."""
        return self._cells if self._uses_cells(num_rows) else self.engine

    def _uses_cells(self, num_rows: int) -> bool:
        is_worth_it = cells.worthwhile(num_rows, len(self._centroids_KD))
        return is_worth_it and not self.engine.is_on_gpu

    @cached_property
    def _cells(self) -> Engine:
        place_KD = self._centroids_KD if self.metric == "cosine" else self._weight_KE[:, :-1]
        return cells.Cells(self._weight_KE, place_KD, self.engine)

    def nearest(self, vectors_TD: VectorsTD) -> tuple[TokensT, DistancesT]:
        """Tokens [T], and the squared distance [T] of each vector to its centroid: the same bits
        for any engine."""
        tokens_T = self.tokens(vectors_TD)
        return tokens_T, _squares(vectors_TD - self._given_KD[tokens_T])

    def nearest_two(self, vectors_TD: VectorsTD) -> tuple[DistancesT, DistancesT]:
        """The squared distances [T] of the nearest centroid and of the next, those of vectors of
        unit length under `cosine`; equal where they differ by less than rounding."""
        vectors_TD = unit(vectors_TD) if self.metric == "cosine" else vectors_TD
        _, first_T = self.nearest(vectors_TD)
        rows_TE = self._rows(vectors_TD)
        with one_blas_thread:
            found = self.engine.search(rows_TE)  # not cells: they may leave the second best out
        gap_T = found.best_T - found.second_T
        gap_T[gap_T <= 2 * self._bound_at(rows_TE, found.best_T)] = 0
        return first_T, first_T + 2 * gap_T

    def _search(self, engine: Engine, vectors_TD: VectorsTD) -> tuple[Indices, Indices]:
        """The best in float32, and the rows where that may be wrong."""
        rows_TE = self._rows(vectors_TD)
        none = np.zeros(0, dtype=np.int64)
        if len(rows_TE) == 0:
            return none, none
        longest = float(max(rows_TE.max(), -rows_TE.min())) * np.sqrt(rows_TE.shape[1])
        if not (longest + self._largest_norm) ** 2 < LARGEST:
            raise ValueError("vectors or centroids hold NaN, infinite or too large values")
        if len(self._number_K) == 1:
            return np.zeros(len(rows_TE), dtype=np.int64), none
        found = engine.search(rows_TE)
        gap_T = found.best_T - found.second_T
        most = self._rounding_bound(np.array([longest]), np.inf)
        candidates = np.flatnonzero(gap_T <= 2 * most)
        bound_C = self._bound_at(rows_TE[candidates], found.best_T[candidates])
        return found.index_T, candidates[gap_T[candidates] <= 2 * bound_C]

    def _rows(self, vectors_TD: VectorsTD) -> RowsTE:
        """What the engine compares."""
        if self.metric == "cosine":
            return np.ascontiguousarray(vectors_TD, dtype=np.float32)
        rows_TE = np.empty((len(vectors_TD), vectors_TD.shape[1] + 1), dtype=np.float32)
        rows_TE[:, :-1] = vectors_TD
        rows_TE[:, -1] = 1
        rows_TE -= self._mean_E  # quicker than into a part of each row
        return rows_TE

    def _bound_at(self, rows_TE: RowsTE, best_T: Floats) -> Doubles:
        """How far the float32 scores of a row's best centroids can be from the true ones.

        Under `l2` the true best is no further from the vector than the one that was found, so
        that its length is at most the vector's and that distance together.
        """
        num_dims = self._centroids_KD.shape[1]
        norm_T = np.linalg.norm(rows_TE[:, :num_dims].astype(np.float64), axis=1)
        if self.metric == "cosine":
            return self._rounding_bound(norm_T, np.inf)
        least_T = best_T - self._rounding_bound(norm_T, np.inf)
        away_T = np.sqrt(np.maximum(norm_T**2 - 2 * least_T, 0))
        return self._rounding_bound(norm_T, norm_T + away_T)

    def _rounding_bound(self, norm_T: Doubles, longest_T: Any) -> Doubles:
        """Of scores of rows with these norms, and of centroids of up to `longest_T`; with what the
        reference rounds, so that a tie of its own making comes to it, too."""
        longest_T = np.minimum(longest_T, self._largest_norm)
        if self.metric == "l2":
            size_T = norm_T * longest_T + longest_T**2 / 2
            decided_T = (norm_T + longest_T) ** 2
        else:
            size_T, decided_T = norm_T * longest_T, norm_T * self._largest_given
        rounded_T = UNIT_ROUNDOFF * size_T + REFERENCE_ROUNDOFF * decided_T + SMALLEST
        return np.asarray(rounding_terms(self._centroids_KD.shape[1]) * rounded_T)

    def _decide(self, vectors_TD: VectorsTD) -> Indices:
        """The best of the centroids whose scores are within reach of the best score."""
        first, same_T = distinct(vectors_TD)  # digital silence is one vector, many times
        vectors_TD = vectors_TD[first]
        rows_TE = self._rows(vectors_TD)
        chosen_T = np.empty(len(first), dtype=np.int64)
        for block, scores_BK in self._gemm.scores(rows_TE):
            best_B = scores_BK.max(axis=1)
            least_B = best_B - 2 * self._bound_at(rows_TE[block], best_B)
            row_P, centroid_P = np.nonzero(scores_BK >= least_B[:, None])
            chosen_T[block] = self._best_pairs(vectors_TD[block], row_P, centroid_P)
        return chosen_T[same_T]

    def _best_pairs(self, vectors_TD: VectorsTD, row_P: Indices, centroid_P: Indices) -> Indices:
        """For each vector the best of its pairs, which lie together, centroids rising."""
        cost_P = np.empty(len(row_P))
        for at in range(0, len(row_P), RESCORE_PAIRS):
            part = slice(at, at + RESCORE_PAIRS)
            cost_P[part] = self._costs(vectors_TD, row_P[part], centroid_P[part])
        starts_T = np.flatnonzero(np.diff(row_P, prepend=-1))
        is_best_P = cost_P == np.repeat(
            np.minimum.reduceat(cost_P, starts_T), np.diff(starts_T, append=len(row_P))
        )
        best = np.flatnonzero(is_best_P)
        _, first = np.unique(row_P[best], return_index=True)
        return centroid_P[best[first]]

    def _costs(
        self, vectors_TD: VectorsTD, row_P: Indices, centroid_P: Indices
    ) -> npt.NDArray[np.float64]:
        """Float64 costs summed over d = 0, 1, 2 ...; cosine needs no division by the vector's
        length to find its best."""
        cost_P = np.zeros(len(row_P))
        x_DP = vectors_TD[row_P].T.astype(np.float64)
        c_DP = self._centroids_KD[centroid_P].T.astype(np.float64)
        for x_P, c_P in zip(x_DP, c_DP, strict=True):
            cost_P += -x_P * c_P if self.metric == "cosine" else (x_P - c_P) ** 2
        return cost_P


def _in_parts(vectors_TD: VectorsTD, engine: Engine) -> list[VectorsTD]:
    """Parts of about as many rows as an engine wants; down to half of that, if more of them leave
    no thread idle."""
    num_parts = round(len(vectors_TD) / engine.rows_at_a_time)
    if 2 * len(vectors_TD) >= engine.num_threads * engine.rows_at_a_time:
        num_parts = max(num_parts, engine.num_threads)
    return np.array_split(vectors_TD, max(1, num_parts))


def unit(vectors_TD: VectorsTD) -> VectorsTD:
    """Vectors scaled to unit length; a zero vector stays zero."""
    squares_T = np.einsum("td,td->t", vectors_TD, vectors_TD, dtype=np.float64)
    norms_T1 = np.sqrt(squares_T).astype(np.float32)[:, None]
    return np.asarray(vectors_TD / np.where(norms_T1 > 0, norms_T1, 1), dtype=np.float32)


def _squares(rows_TE: RowsTE) -> DistancesT:
    """Squared lengths."""
    return np.asarray(np.einsum("te,te->t", rows_TE, rows_TE), dtype=np.float32)
