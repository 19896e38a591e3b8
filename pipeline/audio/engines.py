"""Engines that find the best centroids of many vectors.

All do the same: for rows [T, E] and weights [K, E] they find, for each row, the weight with the
largest inner product, in float32. What centroids and vectors become to make that the nearest
centroid is `assign.py`'s.

Legend: T rows, B rows of a block, K weights, E numbers in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt

from pipeline.audio.threads import num_threads

RowsTE = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

UNIT_ROUNDOFF = 2.0**-24  # of float32
SMALLEST = 2.0**-126  # of float32 in full precision; an engine may take less for 0

SCORES_AT_A_TIME = 2**19  # 2 MB of them: what was multiplied is compared while it is in the cache
FEWEST_ROWS, MOST_ROWS = 64, 1024  # of a block


def rounding_terms(num_dims: int) -> int:
    """n of the bound n u |x||w| on the error of a score: its terms, and some for what rows, weights
    and a bias were rounded to before (Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1)."""
    return num_dims + 16


@dataclass(frozen=True)
class Found:
    """For each row the first of the best weights, its score, and the score of the next of those
    that were compared (minus infinity where there is none); one that was not compared cannot be
    the best."""

    index_T: Indices
    best_T: Floats
    second_T: Floats


class Engine(Protocol):
    """One way to search."""

    @property
    def rows_at_a_time(self) -> int:
        """How many rows a call of `search` should have."""

    @property
    def num_threads(self) -> int:
        """How many threads should call `search` at once."""

    @property
    def is_on_gpu(self) -> bool: ...

    def search(self, rows_TE: RowsTE) -> Found: ...


class Gemm:
    """Matrix products of blocks of rows, each compared while it lies in the cache. Threads share
    the rows, not a product (`one_blas_thread`)."""

    rows_at_a_time = 16_384
    is_on_gpu = False

    def __init__(self, weight_KE: RowsTE) -> None:
        self._weight_EK = np.ascontiguousarray(weight_KE.T)
        rows = SCORES_AT_A_TIME / len(weight_KE)
        self._block = int(np.clip(2 ** round(np.log2(rows)), FEWEST_ROWS, MOST_ROWS))

    @property
    def num_threads(self) -> int:
        return num_threads()

    def search(self, rows_TE: RowsTE) -> Found:
        index_T = np.empty(len(rows_TE), dtype=np.int64)
        best_T, second_T = np.empty((2, len(rows_TE)), dtype=np.float32)
        for block, scores_BK in self.scores(rows_TE):
            index_T[block], best_T[block], second_T[block] = best_two(scores_BK)
        return Found(index_T, best_T, second_T)

    def scores(self, rows_TE: RowsTE) -> Iterator[tuple[slice, Floats]]:
        """Blocks of all scores [B, K]; the array of one is overwritten by the next."""
        scores_BK = np.empty((self._block, self._weight_EK.shape[1]), dtype=np.float32)
        for start in range(0, len(rows_TE), self._block):
            block = slice(start, min(start + self._block, len(rows_TE)))
            out_BK = scores_BK[: block.stop - block.start]
            yield block, np.matmul(rows_TE[block], self._weight_EK, out=out_BK)


def best_two(scores_BK: Floats) -> tuple[Indices, Floats, Floats]:
    """The first of the highest scores of each row, that score, and the second highest; the best
    one is overwritten."""
    index_B = scores_BK.argmax(axis=1)
    scores = scores_BK.reshape(-1)  # numpy is quicker with one long row than with many
    start_B = np.arange(0, scores.size, scores_BK.shape[1])
    place_B = start_B + index_B
    best_B = scores.take(place_B)
    scores[place_B] = -np.inf
    return index_B, best_B, np.maximum.reduceat(scores, start_B)


class Faiss:
    """`IndexFlatIP`, on the CPU or on every GPU that faiss sees."""

    rows_at_a_time = 65_536
    num_threads = 1  # it has its own

    def __init__(self, weight_KE: RowsTE, device: str = "cpu") -> None:
        index: faiss.Index = faiss.IndexFlatIP(weight_KE.shape[1])
        index.add(np.ascontiguousarray(weight_KE))
        self.is_on_gpu = device == "cuda"
        self._index = faiss.index_cpu_to_all_gpus(index) if self.is_on_gpu else index

    def search(self, rows_TE: RowsTE) -> Found:
        best_T2, index_T2 = self._index.search(rows_TE, 2)
        return Found(index_T2[:, 0], best_T2[:, 0], best_T2[:, 1])


Build = Callable[[RowsTE], Engine]
