"""A few numbers of a vector settle most of the nearest centroids.

Frames of sound lie near few directions: in the right basis, a third of their numbers tells most
centroids apart. Let the columns of P be orthonormal. Then of a vector x and a weight w

    x.w = (P'x).(P'w) + rest(x).rest(w) <= (P'x).(P'w) + |rest(x)| |rest(w)|

(Cauchy and Schwarz), and what stands on the right is again an inner product, of few numbers: a
bound of the score. Where the one with the highest bound truly scores more than the second highest
bound, it is the best. With 5,000 weights that saves a sixth of the time; with 500, where products
wait for the memory, nothing.

Legend: T vectors, D numbers in each, E of what an engine compares (D, and under l2 a bias), K
weights, F directions that are kept, S = F + 1 (+ 1) numbers of a sketch.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from pipeline.audio.engines import Floats, Gemm, Indices, RowsTE

UNIT_ROUNDOFF = 2.0**-24  # of float32
SMALLEST = 2.0**-126  # of float32 in full precision; what is smaller may be taken for 0

FEWEST_WEIGHTS = 1_000
TOLD_APART = 0.985  # share of the weights' variance in the directions that are kept
LONGEST = 0.7  # of all numbers: a longer sketch saves nothing


class Sketch:
    """Bounds of the scores of some weights."""

    def __init__(self, weight_KE: RowsTE, basis_DF: npt.NDArray[np.float64]) -> None:
        num_dims, num_kept = basis_DF.shape
        self._weight_KE = weight_KE
        self._num_dims, self._num_kept = num_dims, num_kept
        exact_KE = weight_KE.astype(np.float64)
        exact_KD, bias_KE = np.hsplit(exact_KE, [num_dims])
        within_KF = exact_KD @ basis_DF
        beside_K1 = np.linalg.norm(exact_KD - within_KF @ basis_DF.T, axis=1, keepdims=True)
        sketch_KS = np.hstack([within_KF, bias_KE, beside_K1])
        self._gemm = Gemm(sketch_KS.astype(np.float32))
        self._from_ES = np.zeros((exact_KE.shape[1], sketch_KS.shape[1]), dtype=np.float32)
        self._from_ES[:num_dims, :num_kept] = basis_DF
        self._from_ES[num_dims:, num_kept:-1] = 1
        self._largest_norm = float(np.linalg.norm(exact_KD, axis=1).max())
        self._largest_bias = float(np.abs(bias_KE).max(initial=0))
        self._terms = (num_dims + 16) * (np.sqrt(num_kept) + 3)

    @classmethod
    def of(cls, weight_KE: RowsTE, num_dims: int) -> Self | None:
        """That of the directions in which centred weights differ most, None where it would save
        nothing."""
        if len(weight_KE) < FEWEST_WEIGHTS:
            return None
        exact_KD = weight_KE[:, :num_dims].astype(np.float64)
        variance_D, basis_DD = np.linalg.eigh(exact_KD.T @ exact_KD)  # rising
        told_apart_D = variance_D[::-1].cumsum()
        num_kept = 1 + int(np.searchsorted(told_apart_D, TOLD_APART * told_apart_D[-1]))
        if num_kept > LONGEST * num_dims:
            return None
        return cls(weight_KE, basis_DD[:, -num_kept:])

    def settle(self, rows_TE: RowsTE) -> tuple[Indices, Indices]:
        """The best weights [T], and the rows of which that is not sure."""
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not sure
            square_T = _squares(rows_TE[:, : self._num_dims])
            found = self._gemm.search(self._sketched(rows_TE, square_T))
            score_T = np.einsum("te,te->t", rows_TE, self._weight_KE[found.index_T])
            size_T = np.sqrt(square_T) * np.float32(self._largest_norm) + self._largest_bias
            is_sure_T = score_T - found.second_T > 2 * self._rounding_bound(size_T)
        return found.index_T, np.flatnonzero(~is_sure_T)

    def _sketched(self, rows_TE: RowsTE, square_T: Floats) -> RowsTE:
        """Their numbers in the directions that are kept, and the length of what lies beside."""
        sketch_TS = rows_TE @ self._from_ES
        beside_T = square_T - _squares(sketch_TS[:, : self._num_kept])
        beside_T = np.maximum(beside_T, 0) + 2 * self._rounding_bound(square_T)
        np.sqrt(beside_T, out=sketch_TS[:, -1])
        return sketch_TS

    def _rounding_bound(self, size_T: Floats) -> Floats:
        """Of sums of products of this size: that of an inner product of D numbers (see
        `Assigner`) for each direction, whose errors add up like the sides of a box, and for the
        score, the basis, and the sum over the directions."""
        return np.asarray(self._terms * (UNIT_ROUNDOFF * size_T + SMALLEST), dtype=np.float32)


def _squares(rows_TE: RowsTE) -> Floats:
    """Squared lengths."""
    return np.asarray(np.einsum("te,te->t", rows_TE, rows_TE), dtype=np.float32)
