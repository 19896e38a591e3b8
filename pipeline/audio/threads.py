"""Threads: how many there are, and numpy's BLAS on one of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np  # noqa: F401 - its BLAS is there before anybody looks for it
from threadpoolctl import ThreadpoolController


def num_threads() -> int:
    """Threads for this process: OMP_NUM_THREADS, which Dask sets for its workers, or the cores."""
    threads: int = faiss.omp_get_max_threads()
    return threads


@cache
def _numpy_blas() -> list[Any]:
    """That of numpy's wheel; faiss has one too, whose threads are faiss's. Where both take the
    system's, it is that."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    own = [
        library
        for library in found
        if any(part.startswith("numpy") for part in Path(library.filepath).parts)
    ]
    return own or found


class _OneBlasThread:
    """numpy's BLAS on one thread, in the whole process, while anybody is inside.

    Where several share a product, their number decides its last bits; and threads that each make
    products of their own would only get in each other's way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside = 0
        self._before: list[int] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._num_inside == 0:
                self._before = [library.num_threads for library in _numpy_blas()]
                _set([1] * len(self._before))
            self._num_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if self._num_inside == 0:
                _set(self._before)


def _set(num_threads: Sequence[int]) -> None:
    for library, number in zip(_numpy_blas(), num_threads, strict=True):
        # threadpoolctl lets one thread of a process change it, the first; here a lock decides
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)
        library.set_num_threads(number)


one_blas_thread = _OneBlasThread()
