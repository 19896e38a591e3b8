"""Engines that find the best centroids of many vectors.

All do the same: for rows [T, E] and weights [K, E] they find, for each row, the weight with the
largest inner product, in float32. What centroids and vectors become to make that the nearest
centroid is `assign.py`'s.

Legend: T rows, B rows of a block, K weights, E numbers in each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from configs.errors import InputError

RowsTE = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

SCORES_AT_A_TIME = 2**19  # 2 MB of them: what was multiplied is compared while it is in the cache
FEWEST_ROWS, MOST_ROWS = 64, 1024  # of a block
PROBE_ROWS = 4096


@dataclass(frozen=True)
class Found:
    """For each row the first of the best weights, its score, and the score of the second best
    (minus infinity where there is one weight only)."""

    index_T: Indices
    best_T: Floats
    second_T: Floats


class Engine(Protocol):
    """One way to search."""

    @property
    def name(self) -> str: ...

    @property
    def rows_at_a_time(self) -> int:
        """How many rows a call of `search` should have."""

    @property
    def num_threads(self) -> int:
        """How many threads should call `search` at once."""

    def search(self, rows_TE: RowsTE) -> Found: ...


class Gemm:
    """Matrix products of blocks of rows, each compared while it lies in the cache. Threads share
    the rows, not a product (`one_blas_thread`), so that no bit hangs on their number."""

    name = "gemm"
    rows_at_a_time = 4096

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
            index_B = scores_BK.argmax(axis=1)
            flat = scores_BK.reshape(-1)  # numpy is quicker with one long row than with many
            start_B = np.arange(0, scores_BK.size, scores_BK.shape[1])
            index_T[block], best_T[block] = index_B, flat.take(start_B + index_B)
            flat[start_B + index_B] = -np.inf
            np.maximum.reduceat(flat, start_B, out=second_T[block])
        return Found(index_T, best_T, second_T)

    def scores(self, rows_TE: RowsTE) -> Iterator[tuple[slice, Floats]]:
        """Blocks of all scores [B, K]; the array of one is overwritten by the next."""
        scores_BK = np.empty((self._block, self._weight_EK.shape[1]), dtype=np.float32)
        for start in range(0, len(rows_TE), self._block):
            block = slice(start, min(start + self._block, len(rows_TE)))
            out_BK = scores_BK[: block.stop - block.start]
            yield block, np.matmul(rows_TE[block], self._weight_EK, out=out_BK)


class Faiss:
    """`IndexFlatIP`, on the CPU or on every GPU that faiss sees."""

    rows_at_a_time = 65_536
    num_threads = 1  # it has its own

    def __init__(self, weight_KE: RowsTE, device: str = "cpu") -> None:
        self.name = "faiss" if device == "cpu" else f"faiss on {faiss.get_num_gpus()} GPU"
        index: faiss.Index = faiss.IndexFlatIP(weight_KE.shape[1])
        index.add(np.ascontiguousarray(weight_KE))
        self._index = faiss.index_cpu_to_all_gpus(index) if device == "cuda" else index

    def search(self, rows_TE: RowsTE) -> Found:
        best_T2, index_T2 = self._index.search(rows_TE, 2)
        return Found(index_T2[:, 0], best_T2[:, 0], best_T2[:, 1])


Build = Callable[[RowsTE], Engine]


def num_threads() -> int:
    """Threads for this process: OMP_NUM_THREADS, which Dask sets for its workers, or the cores."""
    threads: int = faiss.omp_get_max_threads()
    return threads


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """numpy's BLAS on one thread."""
    with _blas().limit(limits=1):
        yield


# --- choice ------------------------------------------------------------------------------------


def choose_device(asked: str) -> str:
    """`cuda` or `cpu`; `auto` takes GPUs where faiss sees one.

    Raises InputError where a GPU is asked for and faiss sees none.
    """
    num_gpus = faiss.get_num_gpus()
    if asked == "cuda" and not num_gpus:
        raise InputError("codebook.device=cuda, but faiss sees no GPU here: use auto or cpu")
    if asked == "auto":
        return "cuda" if num_gpus else "cpu"
    return asked


@dataclass(frozen=True)
class Choice:
    """An engine that was chosen, and how fast each was in the probe, in rows a second."""

    build: Build
    name: str
    device: str
    rows_per_s: Mapping[str, float]

    def __str__(self) -> str:
        rates = [f"{name} {rate / 1e6:.3g}" for name, rate in self.rows_per_s.items()]
        where = "" if self.device == "cuda" or faiss.get_num_gpus() else "; faiss sees no GPU"
        return f"{self.name} ({', '.join(rates)} million frames/s{where})"


def choose_engine(k: int, num_dims: int, asked: str = "auto") -> Choice:
    """The fastest engine of this machine for K weights of that many numbers, by a short probe.

    Raises InputError where a GPU is asked for and faiss sees none.
    """
    return _probed(k, num_dims, choose_device(asked))


def _fused(weight_KE: RowsTE) -> Engine:
    from pipeline.audio.assign_torch import Fused  # workers without a GPU have no torch

    return Fused(weight_KE)


BUILDS: dict[str, tuple[Build, ...]] = {
    "cpu": (Gemm, Faiss),
    "cuda": (partial(Faiss, device="cuda"), _fused),
}


@cache
def _probed(k: int, num_dims: int, device: str) -> Choice:
    random = np.random.Generator(np.random.Philox(key=k))
    weight_KE = random.standard_normal((k, num_dims + 1), dtype=np.float32)
    rates: dict[str, float] = {}
    builds: dict[str, Build] = {}
    for build in BUILDS[device]:
        try:
            engine = build(weight_KE)
        except ImportError:  # no torch beside the GPU
            continue
        builds[engine.name], rates[engine.name] = build, _rate(engine, num_dims + 1)
    best = max(rates, key=lambda name: rates[name])
    return Choice(builds[best], best, device, rates)


def _rate(engine: Engine, width: int) -> float:
    """Rows a second of one call; the first one, which warms up, does not count."""
    random = np.random.Generator(np.random.Philox(key=0))
    rows_TE = random.standard_normal((PROBE_ROWS, width), dtype=np.float32)
    with one_blas_thread():
        engine.search(rows_TE[:FEWEST_ROWS])
        begin_s = time.perf_counter()
        engine.search(rows_TE)
    return PROBE_ROWS * engine.num_threads / (time.perf_counter() - begin_s)
