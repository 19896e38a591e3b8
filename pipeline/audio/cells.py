"""Most centroids cannot be the nearest: an engine that does not compare with them.

Space is cut into cells around some centres g. At g one weight w0 scores most, and another w scores
less by h. For a row that lies r away from g the scores of the two come nearer to each other by at
most r |w - w0| (Cauchy and Schwarz), so that those with

    h > r |w - w0|

score less than w0 there too. What is left, for rows of a cell that lie about as far from its
centre, goes through a matrix product as all weights would. Elkan's K-means rules out by such an
inequality, row by row (Using the Triangle Inequality to Accelerate k-Means, ICML 2003).

Legend: T rows, B of a batch, D numbers in each, E of what is compared (D, and under `l2` a bias), K
weights, N of them that are left, M cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.audio.engines import (
    SMALLEST,
    UNIT_ROUNDOFF,
    Engine,
    Floats,
    Found,
    Indices,
    RowsTE,
    best_two,
    rounding_terms,
)
from pipeline.audio.threads import num_threads

Doubles = npt.NDArray[np.float64]

FEWEST_WEIGHTS = 400  # with fewer, finding the cells costs more than it saves
WEIGHTS_A_CELL = 40
MOST_REACHES = 2**22  # M K, of 4 bytes each
CELLS_AT_A_TIME = 16
LLOYD_STEPS = 3

ROWS, ROWS_A_CELL = 32_768, 512  # that a search should have, at least; a quarter of them pays
BATCH_ROWS = 512
FAR_SHARE = 0.125  # of a cell's rows
SAMPLED_ROWS = 256
MOST_LEFT = 0.6  # of all weights, for cells to be quicker


def rows_at_a_time(num_weights: int) -> int:
    """How many rows a search should have."""
    return max(ROWS, ROWS_A_CELL * _num_cells(num_weights))


def worthwhile(num_rows: int, num_weights: int) -> bool:
    """Whether a search of that many rows earns back what finding their cells costs."""
    return num_weights >= FEWEST_WEIGHTS and 4 * num_rows >= rows_at_a_time(num_weights)


class Cells:
    """An engine of a CPU for many rows and weights.

    Args:
        weight_KE: what is compared, finite. Of E = D + 1 numbers the last one is a bias of
            -|w|^2 / 2, and the last one of a row is 1; without a bias, the lengths of rows and
            places mean nothing.
        place_KD: where, among rows, each weight is the best.
        fallback: searches where a sample of the rows shows that little can be ruled out.
    """

    def __init__(self, weight_KE: RowsTE, place_KD: RowsTE, fallback: Engine) -> None:
        num_weights, self._num_dims = place_KD.shape
        self._weight_KE = weight_KE
        self._fallback = fallback
        self._is_direction = weight_KE.shape[1] == self._num_dims
        centre_MD = _centres(
            place_KD.astype(np.float64), _num_cells(num_weights), self._is_direction
        )
        square_M1 = (centre_MD**2).sum(axis=1, keepdims=True)
        self._square_M = square_M1[:, 0].astype(np.float32)
        to_cell_ME, at_ME = centre_MD, centre_MD
        if not self._is_direction:
            to_cell_ME = np.hstack([centre_MD, -square_M1 / 2])
            at_ME = np.hstack([centre_MD, np.ones_like(square_M1)])
        self._to_cell_EM = np.ascontiguousarray(to_cell_ME.T.astype(np.float32))
        self._reach_MK = _reaches(at_ME, weight_KE.astype(np.float64), self._num_dims)
        self._furthest = self._reach_MK.max(initial=np.float32(SMALLEST))  # all are left there

    is_on_gpu = False

    @property
    def rows_at_a_time(self) -> int:
        return rows_at_a_time(len(self._weight_KE))

    @property
    def num_threads(self) -> int:
        return num_threads()

    def search(self, rows_TE: RowsTE) -> Found:
        """See `Found`: what is ruled out cannot be the best, but may be the second best."""
        if self._left_share(rows_TE[:: max(1, len(rows_TE) // SAMPLED_ROWS)]) > MOST_LEFT:
            return self._fallback.search(rows_TE)
        cell_T, away_T = self._located(rows_TE)
        order_T = np.argsort(cell_T + away_T / (2 * self._furthest))
        index_T = np.empty(len(rows_TE), dtype=np.int64)
        best_T, second_T = np.empty((2, len(rows_TE)), dtype=np.float32)
        rows_BE = np.empty((BATCH_ROWS, rows_TE.shape[1]), dtype=np.float32)
        for cell, batch in _batches(cell_T[order_T], len(self._reach_MK)):
            order_B = order_T[batch]
            left_N = np.flatnonzero(self._reach_MK[cell] <= away_T[order_B].max())
            # "raise", the other mode, would copy what it takes once more
            batch_BE = rows_TE.take(order_B, axis=0, out=rows_BE[: len(order_B)], mode="clip")
            found_B, best_T[order_B], second_T[order_B] = best_two(
                batch_BE @ self._weight_KE[left_N].T
            )
            index_T[order_B] = left_N[found_B]
        return Found(index_T, best_T, second_T)

    def _left_share(self, rows_TE: RowsTE) -> float:
        places = zip(*self._located(rows_TE), strict=True)
        return float(np.mean([(self._reach_MK[cell] <= away).mean() for cell, away in places]))

    def _located(self, rows_TE: RowsTE) -> tuple[Indices, Floats]:
        """The cell of each row, and how far, at most, the row lies from its centre; no further
        than where nothing is ruled out."""
        with np.errstate(all="ignore"):  # what overflows or vanishes counts as far away
            score_TM = rows_TE @ self._to_cell_EM
            cell_T = score_TM.argmax(axis=1)
            score_T = np.take_along_axis(score_TM, cell_T[:, None], axis=1)[:, 0]
            x_TD = rows_TE[:, : self._num_dims]
            square_T = np.einsum("td,td->t", x_TD, x_TD)
            if self._is_direction:
                score_T = score_T / np.sqrt(square_T) - np.float32(0.5)
                exact = SMALLEST / UNIT_ROUNDOFF  # shorter ones lose some of their numbers
                square_T = np.where(square_T < exact, np.float32(np.nan), np.float32(1))
            size_T = UNIT_ROUNDOFF * (square_T + self._square_M[cell_T]) + SMALLEST
            rounding_T = 4 * rounding_terms(self._num_dims) * size_T
            away_T = np.sqrt(np.maximum(square_T - 2 * score_T, 0) + rounding_T)
            return cell_T, np.fmin(away_T, self._furthest).astype(np.float32)  # NaN: far away


def _batches(cell_T: Indices, num_cells: int) -> Iterator[tuple[int, slice]]:
    """The rows of each cell: the nearer ones in parts of about the same size, and by themselves
    those that lie furthest out, where less is ruled out."""
    ends_M = np.searchsorted(cell_T, np.arange(num_cells), side="right").tolist()
    for cell, (begin, end) in enumerate(pairwise([0, *ends_M])):
        far = end - int(FAR_SHARE * (end - begin))
        for first, last in ((begin, far), (far, end)):
            num_batches = -(-(last - first) // BATCH_ROWS)
            cuts = [first + (last - first) * n // num_batches for n in range(num_batches)]
            for at, then in pairwise([*cuts, last]):
                yield cell, slice(at, then)


def _num_cells(num_weights: int) -> int:
    return max(1, min(num_weights // WEIGHTS_A_CELL, MOST_REACHES // num_weights))


def _centres(place_KD: Doubles, num_cells: int, is_direction: bool) -> Doubles:
    """Some steps of Lloyd's from points that lie all over them; any centres would do."""
    centre_MD = place_KD[np.linspace(0, len(place_KD) - 1, num_cells).astype(int)]
    for _ in range(LLOYD_STEPS):
        cell_K = (place_KD @ centre_MD.T - (centre_MD**2).sum(axis=1) / 2).argmax(axis=1)
        count_M1 = np.bincount(cell_K, minlength=num_cells)[:, None]
        sum_MD = np.zeros_like(centre_MD)
        np.add.at(sum_MD, cell_K, place_KD)
        centre_MD = np.where(count_M1 > 0, sum_MD / np.maximum(count_M1, 1), centre_MD)
    if is_direction:
        length_M1 = np.linalg.norm(centre_MD, axis=1, keepdims=True)
        centre_MD = centre_MD / np.where(length_M1 > 0, length_M1, np.inf)
    return np.asarray(centre_MD)


def _reaches(at_ME: Doubles, weight_KE: Doubles, num_dims: int) -> Floats:
    """How far from a centre [M, K] a row must at least lie for a weight to be its best.

    None is more than |g| + max |w|: the bias is -|w|^2 / 2, or there is none and |g| is 1. So
    where a weight is ruled out, rows, weights and reaches are of about that size at most, and one
    margin covers what all of them were rounded by.
    """
    weight_KD = weight_KE[:, :num_dims]
    square_K = (weight_KD**2).sum(axis=1)
    size_M1 = np.linalg.norm(at_ME[:, :num_dims], axis=1, keepdims=True) + np.sqrt(square_K.max())
    margin_M1 = 4 * rounding_terms(num_dims) * (UNIT_ROUNDOFF * size_M1**2 + SMALLEST)
    reach_MK = np.empty((len(at_ME), len(weight_KE)), dtype=np.float32)
    for begin in range(0, len(at_ME), CELLS_AT_A_TIME):
        part = slice(begin, begin + CELLS_AT_A_TIME)
        score_MK = at_ME[part] @ weight_KE.T
        first_M = score_MK.argmax(axis=1)
        lead_MK = score_MK.max(axis=1, keepdims=True) - score_MK - margin_M1[part]
        squares_MK = square_K[first_M, None] + square_K
        apart_MK = squares_MK - 2 * weight_KD[first_M] @ weight_KD.T
        with np.errstate(over="ignore"):  # the best one's own, which may be minus infinity
            reach_MK[part] = lead_MK / np.sqrt(np.maximum(apart_MK, 1e-300))
    return reach_MK
