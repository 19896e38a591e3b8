"""Permutations and draws by key: bijective, even, and different for every key."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shards.stream.keyed import Permutation, draws

SURELY = 1e-4  # a fair one fails so seldom


@given(size=st.integers(1, 3000), key=st.lists(st.integers(0, 2**64), min_size=1, max_size=4))
def test_it_is_a_permutation(size: int, key: list[int]) -> None:
    images = Permutation(size, *key)(np.arange(size))
    assert sorted(images.tolist()) == list(range(size))


@given(size=st.integers(1, 2**61), key=st.integers(0, 2**63), data=st.data())
def test_any_index_can_be_asked_for_by_itself(size: int, key: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    permutation = Permutation(size, key)
    together = permutation(np.array(indices))
    assert together.tolist() == [int(permutation(np.array([index]))[0]) for index in indices]
    assert together.min() >= 0
    assert together.max() < size
    assert len(set(together.tolist())) == len(set(indices))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_small_permutation_is_about_as_likely(size: int) -> None:
    found = Counter(tuple(Permutation(size, key)(np.arange(size)).tolist()) for key in range(6000))
    counts = [found[images] for images in itertools.permutations(range(size))]
    expected = 6000 / math.factorial(size)
    assert min(counts) > 0.85 * expected
    assert max(counts) < 1.15 * expected


@pytest.mark.parametrize("size", [10, 97, 1000])
def test_every_index_goes_everywhere_alike(size: int) -> None:
    num_keys = 2000
    places = np.zeros((size, size))
    for key in range(num_keys):
        places[np.arange(size), Permutation(size, key, 1)(np.arange(size))] += 1
    expected = num_keys / size
    statistic = float(((places - expected) ** 2 / expected).sum())
    assert SURELY < stats.chi2.sf(statistic, (size - 1) ** 2) < 1 - SURELY


def test_neighbours_do_not_stay_together() -> None:
    size = 100_000
    images = Permutation(size, 3)(np.arange(size))
    for lag in (1, 2, 3, math.isqrt(size), math.isqrt(size) + 1):
        steps = (images[lag:] - images[:-lag]) % size
        counts = np.bincount(steps * 64 // size, minlength=64)
        assert stats.chisquare(counts).pvalue > SURELY, lag


def test_keys_that_differ_little_give_unlike_permutations() -> None:
    first = Permutation(10_000, 7, 0)(np.arange(10_000))
    for other in (Permutation(10_000, 7, 1), Permutation(10_000, 8, 0), Permutation(10_000, 0, 7)):
        second = other(np.arange(10_000))
        assert np.count_nonzero(first == second) < 10  # one on average
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_draws_are_even_and_independent() -> None:
    found = draws(np.arange(200_000), 5, 0)
    assert found.min() >= 0
    assert found.max() < 1
    assert stats.kstest(found, "uniform").pvalue > SURELY
    for lag in (1, 2, 1024):
        pairs = (found[lag:] * 8).astype(int) * 8 + (found[:-lag] * 8).astype(int)
        assert stats.chisquare(np.bincount(pairs, minlength=64)).pvalue > SURELY
    assert not np.any(found == draws(np.arange(200_000), 5, 1))


@given(index=st.integers(0, 2**62), key=st.integers(0, 2**63))
def test_a_draw_depends_on_its_index_alone(index: int, key: int) -> None:
    several = draws(np.array([index, 3, index]), key)
    assert several[0] == several[2] == draws(np.array([index]), key)[0]
