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

from pipeline.audio.engines import Engine, Floats, Found, Indices, RowsTE, best_two
from pipeline.audio.threads import num_threads

Doubles = npt.NDArray[np.float64]

UNIT_ROUNDOFF = 2.0**-24  # of float32
SMALLEST = 2.0**-126  # of float32 in full precision; what is smaller may be taken for 0
SHORTEST = 1e-30  # squared length from which on float32 loses nothing of it
FARTHEST = np.float32(1e38)

FEWEST_WEIGHTS = 400  # with fewer, finding the cells costs more than it saves
WEIGHTS_A_CELL = 40
MOST_REACHES = 2**22  # M K, of 4 bytes each
CELLS_AT_A_TIME = 16
LLOYD_STEPS = 3

FEWEST_ROWS_A_CELL, ROWS_A_CELL = 128, 512  # of a search
FEWEST_ROWS, ROWS = 8_192, 32_768  # of a search, at least
FAR_SHARE = 0.125
SAMPLED_ROWS = 256
MOST_LEFT = 0.6  # of all weights
BATCH_SCORES = 2**18  # that fit into a cache, where a quarter of the weights is left
FEWEST_OF_BATCH, MOST_OF_BATCH = 256, 512


class Cells:
    """An engine for many rows and weights.

    Args:
        weight_KE: what is compared.
        place_KD: where, among rows, each weight is the best; if weights have no bias, the lengths
            of rows and places mean nothing.
        otherwise: what searches where rows lie so that little can be ruled out.
    """

    def __init__(self, weight_KE: RowsTE, place_KD: RowsTE, otherwise: Engine) -> None:
        num_weights, self._num_dims = place_KD.shape
        self._weight_KE = weight_KE
        self._otherwise = otherwise
        self._is_direction = weight_KE.shape[1] == self._num_dims
        self._batch_rows = int(
            np.clip(4 * BATCH_SCORES // num_weights, FEWEST_OF_BATCH, MOST_OF_BATCH)
        )
        num_cells = _num_cells(num_weights)
        centre_MD = _centres(place_KD.astype(np.float64), num_cells, self._is_direction)
        square_M1 = (centre_MD**2).sum(axis=1, keepdims=True)
        self._largest_square = np.float32(square_M1.max())
        to_cell_ME, at_ME = centre_MD, centre_MD
        if not self._is_direction:
            to_cell_ME = np.hstack([centre_MD, -square_M1 / 2])
            at_ME = np.hstack([centre_MD, np.ones_like(square_M1)])
        self._to_cell_EM = np.ascontiguousarray(to_cell_ME.T.astype(np.float32))
        self._reach_MK = _reaches(at_ME, weight_KE.astype(np.float64), self._num_dims)

    @staticmethod
    def pay(num_rows: int, num_weights: int) -> bool:
        """Whether it can be worth while to make them, for that many rows in one search."""
        fewest = max(FEWEST_ROWS, FEWEST_ROWS_A_CELL * _num_cells(num_weights))
        return num_rows >= fewest and num_weights >= FEWEST_WEIGHTS

    @property
    def rows_at_a_time(self) -> int:
        return max(ROWS, ROWS_A_CELL * len(self._reach_MK))

    @property
    def num_threads(self) -> int:
        return num_threads()

    def search(self, rows_TE: RowsTE) -> Found:
        """As any engine; the second best is that of those that can be the best."""
        if self._left_share(rows_TE[:: max(1, len(rows_TE) // SAMPLED_ROWS)]) > MOST_LEFT:
            return self._otherwise.search(rows_TE)
        cell_T, away_T = self._places(rows_TE)
        order_T = np.argsort(cell_T + away_T / (2 * away_T.max(initial=1)))
        index_T = np.empty(len(rows_TE), dtype=np.int64)
        best_T, second_T = np.empty((2, len(rows_TE)), dtype=np.float32)
        rows_BE = np.empty((self._batch_rows, rows_TE.shape[1]), dtype=np.float32)
        for cell, batch in self._batches(cell_T[order_T]):
            order_B = order_T[batch]
            left_N = np.flatnonzero(self._reach_MK[cell] <= away_T[order_B].max())
            batch_BE = rows_TE.take(order_B, axis=0, out=rows_BE[: len(order_B)], mode="clip")
            found_B, best_T[order_B], second_T[order_B] = best_two(
                batch_BE @ self._weight_KE[left_N].T
            )
            index_T[order_B] = left_N[found_B]
        return Found(index_T, best_T, second_T)

    def _left_share(self, rows_TE: RowsTE) -> float:
        cell_T, away_T = self._places(rows_TE)
        return float((self._reach_MK[cell_T] <= away_T[:, None]).mean())

    def _places(self, rows_TE: RowsTE) -> tuple[Indices, Floats]:
        """The cell of each row, and how far, at most, the row lies from its centre."""
        with np.errstate(all="ignore"):  # what overflows or vanishes counts as far away
            score_TM = rows_TE @ self._to_cell_EM
            cell_T = score_TM.argmax(axis=1)
            score_T = np.take_along_axis(score_TM, cell_T[:, None], axis=1)[:, 0]
            x_TD = rows_TE[:, : self._num_dims]
            square_T = np.einsum("td,td->t", x_TD, x_TD)
            if self._is_direction:
                score_T = score_T / np.sqrt(square_T) - np.float32(0.5)
                square_T = np.where(square_T < SHORTEST, np.float32(np.nan), np.float32(1))
            rounding = 4 * (self._num_dims + 16)
            rounding_T = rounding * (UNIT_ROUNDOFF * (square_T + self._largest_square) + SMALLEST)
            away_T = np.sqrt(np.maximum(square_T - 2 * score_T, 0) + rounding_T)
            return cell_T, np.where(away_T < FARTHEST, away_T, FARTHEST)

    def _batches(self, cell_T: Indices) -> Iterator[tuple[int, slice]]:
        """The rows of each cell: the nearer ones in parts of about the same size, and by themselves
        those that lie furthest out, where less is ruled out."""
        ends_M = np.searchsorted(cell_T, np.arange(len(self._reach_MK)), side="right").tolist()
        for cell, (begin, end) in enumerate(zip([0, *ends_M], ends_M, strict=False)):
            far = end - int(FAR_SHARE * (end - begin))
            for first, last in ((begin, far), (far, end)):
                num_batches = -(-(last - first) // self._batch_rows)
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
    """How far, at least, a row lies from a centre [M, K] where a weight is the best, less what the
    rounding of rows and weights to float32 can move that."""
    weight_KD = weight_KE[:, :num_dims]
    square_K = (weight_KD**2).sum(axis=1)
    size = np.linalg.norm(at_ME[:, :num_dims], axis=1).max() + np.sqrt(square_K.max())
    margin = 4 * (num_dims + 16) * UNIT_ROUNDOFF * size**2
    reach_MK = np.empty((len(at_ME), len(weight_KE)), dtype=np.float32)
    for begin in range(0, len(at_ME), CELLS_AT_A_TIME):
        part = slice(begin, begin + CELLS_AT_A_TIME)
        score_MK = at_ME[part] @ weight_KE.T
        first_M = score_MK.argmax(axis=1)
        less_MK = np.take_along_axis(score_MK, first_M[:, None], axis=1) - score_MK - margin
        squares_MK = square_K[first_M, None] + square_K
        apart_MK = squares_MK * (1 + 1e-12) - 2 * weight_KD[first_M] @ weight_KD.T
        with np.errstate(over="ignore", invalid="ignore"):  # what is further than any row
            reach_MK[part] = less_MK / np.sqrt(np.maximum(apart_MK, 1e-300))
    reach_MK[np.isnan(reach_MK)] = -np.inf  # of weights that overflowed
    return reach_MK
