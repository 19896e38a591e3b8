"""What is made when asked for: once for all who want it, and kept within a bound."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.stream.kept import Kept

Array = npt.NDArray[np.uint8]


def of_size(number: int) -> Array:
    return np.full(number % 5 + 1, number, dtype=np.uint8)


@given(numbers=st.lists(st.integers(0, 12)), bound=st.integers(0, 12))
def test_the_bound_holds_and_those_used_last_stay(numbers: list[int], bound: int) -> None:
    made: list[int] = []

    def make(number: int) -> Array:
        made.append(number)
        return of_size(number)

    kept, plain = Kept(make, bound), list[int]()  # the plain one: numbers, the last used last
    for number in numbers:
        is_there = number in plain
        before = len(made)
        assert kept[number].tolist() == of_size(number).tolist()
        assert (len(made) == before) == is_there
        plain = [other for other in plain if other != number]
        if of_size(number).nbytes <= bound:
            plain.append(number)
            while sum(of_size(other).nbytes for other in plain) > bound:
                plain.pop(0)
        assert kept.num_bytes == sum(of_size(other).nbytes for other in plain) <= bound


def test_without_a_bound_everything_stays() -> None:
    kept = Kept(of_size)
    assert [kept[number] is kept[number] for number in range(100)] == [True] * 100


def test_what_many_threads_want_is_made_once() -> None:
    made: list[int] = []
    barrier = threading.Barrier(8)

    def make(number: int) -> Array:
        made.append(number)
        time.sleep(0.05)
        return of_size(number)

    def ask(_: int) -> Array:
        barrier.wait()
        return kept[3]

    kept = Kept(make, 0)  # not even kept
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert made == [3]
    assert all(array is found[0] for array in found)


def test_an_error_is_everybodys_and_is_not_kept() -> None:
    barrier, tries = threading.Barrier(4), list[int]()

    def make(number: int) -> Array:
        tries.append(number)
        time.sleep(0.05)
        if len(tries) == 1:
            raise OSError("the disk is gone")
        return of_size(number)

    def ask(_: int) -> str:
        barrier.wait()
        with pytest.raises(OSError, match="gone") as caught:
            _ = kept[3]
        return str(caught.value)

    kept = Kept(make, 100)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == ["the disk is gone"] * 4
    assert kept[3].tolist() == of_size(3).tolist()
    assert tries == [3, 3]
