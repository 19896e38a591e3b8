"""Arithmetic on things of different sizes that stand one after another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def starts_of(sizes: npt.NDArray[np.integer]) -> Indices:
    """Where each of some things of these sizes begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def sorted_places(values: Indices) -> tuple[Indices, Indices]:
    """The stable order of some values, and where each of them stands in it."""
    order = np.argsort(values, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return order, place


def ragged(starts: Indices, counts: Indices) -> Indices:
    """start, start + 1 ... of each of some stretches, one after another."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)


def runs(values: Indices) -> Iterator[tuple[int, slice]]:
    """Each stretch of equal neighbours: the value and where it stands."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, stop in pairwise(edges):
        if stop > start:
            yield int(values[start]), slice(start, stop)
