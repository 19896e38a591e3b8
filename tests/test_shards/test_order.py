"""The order of examples is a pure function: each once an epoch, and any suffix can be asked for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shards.order import epoch_order, examples_at


@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 1000), n=st.integers(1, 300))
def test_an_epoch_holds_each_example_once(seed: int, epoch: int, n: int) -> None:
    assert sorted(epoch_order(seed, epoch, n).tolist()) == list(range(n))


@given(seed=st.integers(0, 99), n=st.integers(1, 50), data=st.data())
def test_any_cut_of_the_stream_gives_the_same_stream(
    seed: int, n: int, data: st.DataObject
) -> None:
    stop = data.draw(st.integers(0, 5 * n))
    cuts = sorted(data.draw(st.lists(st.integers(0, stop), max_size=6)))
    whole = examples_at(seed, n, 0, stop)
    edges = [0, *cuts, stop]
    parts = [examples_at(seed, n, a, b) for a, b in pairwise(edges)]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(seed, epoch, 100)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
