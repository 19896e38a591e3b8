"""Orders: each example once where that is promised, mixed well, balanced as asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.stream.order import (
    GlobalOrder,
    MixedOrder,
    Order,
    StoredOrder,
    WeightedOrder,
    WindowOrder,
    balancing_weights,
)

SIZES = [5, 1, 8, 8, 3, 0, 2, 8]
MAKE: dict[str, Callable[[int], Order]] = {
    "global": lambda seed: GlobalOrder(sum(SIZES), seed),
    "stored": lambda _: StoredOrder(sum(SIZES)),
    "window": lambda seed: WindowOrder(SIZES, 3, seed),
    "weighted": lambda seed: WeightedOrder(np.arange(1.0, sum(SIZES) + 1), seed),
    "mixed": lambda seed: MixedOrder(
        [GlobalOrder(20, seed), WindowOrder([10, 5], 1, seed)], [0.3, 0.7]
    ),
}


def epoch_of(order: Order, epoch: int = 0) -> list[int]:
    return order.examples(epoch, np.arange(order.num_positions)).tolist()


@pytest.mark.parametrize("name", MAKE)
@given(seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6), data=st.data())
def test_any_position_can_be_asked_for_by_itself(
    name: str, seed: int, epoch: int, data: st.DataObject
) -> None:
    order = MAKE[name](seed)
    positions = data.draw(st.lists(st.integers(0, order.num_positions - 1), max_size=12))
    whole = epoch_of(order, epoch)
    assert order.examples(epoch, np.array(positions, dtype=np.int64)).tolist() == [
        whole[position] for position in positions
    ]
    assert min(whole) >= 0
    assert max(whole) < sum(SIZES)


@pytest.mark.parametrize("name", ["global", "stored", "window"])
@given(seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
def test_an_epoch_holds_each_example_once(name: str, seed: int, epoch: int) -> None:
    assert sorted(epoch_of(MAKE[name](seed), epoch)) == list(range(sum(SIZES)))


@pytest.mark.parametrize("name", ["global", "window", "weighted", "mixed"])
def test_seeds_and_epochs_give_other_orders(name: str) -> None:
    found = {tuple(epoch_of(MAKE[name](seed), epoch)) for seed in range(5) for epoch in range(5)}
    assert len(found) == 25


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    window_units=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_a_window_takes_few_units_at_a_time(sizes: list[int], window_units: int, seed: int) -> None:
    unit_of = np.repeat(np.arange(len(sizes)), sizes)
    order = WindowOrder(sizes, window_units, seed)
    units = unit_of[epoch_of(order)]
    last_use = {unit: position for position, unit in enumerate(units.tolist())}
    open_units: set[int] = set()
    for position, unit in enumerate(units.tolist()):
        open_units.add(unit)
        assert len(open_units) <= window_units
        open_units = {other for other in open_units if last_use[other] > position}


def test_weights_say_how_often_an_example_comes() -> None:
    weights = np.array([0.0, 1.0, 2.0, 5.0])
    order = WeightedOrder(weights, seed=3)
    drawn = Counter(example for epoch in range(20_000) for example in epoch_of(order, epoch))
    assert drawn[0] == 0
    shares = np.array([drawn[example] for example in range(4)]) / 80_000
    np.testing.assert_allclose(shares, weights / 8, atol=0.006)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_weights_that_cannot_be(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights are finite"):
        WeightedOrder(np.array(weights), 0)


def test_balance_makes_rare_classes_frequent() -> None:
    """Class 0 in 900 clips, class 1 in 100, ten of which have both; one clip has none."""
    clips = [[0]] * 890 + [[0, 1]] * 10 + [[1]] * 90 + [[]]
    starts = np.concatenate([[0], np.cumsum([len(labels) for labels in clips])])
    labels = np.array([label for clip in clips for label in clip])
    alike, balanced = (balancing_weights(labels, starts, strength) for strength in (0.0, 1.0))
    assert np.unique(alike).tolist() == [1.0]
    np.testing.assert_allclose(balanced[0], 1 / 900)
    np.testing.assert_allclose(balanced[890], 1 / 900 + 1 / 100)
    assert balanced[-1] == balanced[0]
    first, second = balanced[:900].sum(), balanced[890:990].sum()
    assert 0.8 < first / second < 1.2
    between = balancing_weights(labels, starts, 0.5)
    assert 1 < between[950] / between[0] < balanced[950] / balanced[0]


def test_balance_without_any_label_is_none() -> None:
    weights = balancing_weights(np.zeros(0, dtype=np.int16), np.zeros(4, dtype=np.int64), 1.0)
    assert weights.tolist() == [1.0, 1.0, 1.0]


@given(
    shares=st.lists(st.floats(0.05, 10.0), min_size=1, max_size=5),
    counts=st.lists(st.integers(1, 50), min_size=5, max_size=5),
    start=st.integers(0, 10**6),
    stop=st.integers(0, 3_000),
)
def test_every_stretch_of_a_mixture_has_its_shares(
    shares: list[float], counts: list[int], start: int, stop: int
) -> None:
    counts = counts[: len(shares)]
    parts = [GlobalOrder(count, 1) for count in counts]
    order = MixedOrder(parts, shares)
    positions = start + np.arange(stop)
    first = np.concatenate([[0], np.cumsum(counts)])
    found = np.searchsorted(first, order.examples(0, positions), side="right") - 1
    for number, share in enumerate(shares):
        expected = share / sum(shares) * stop
        allowed = 2 + len(shares) + stop / MixedOrder.TURNS
        assert abs(np.count_nonzero(found == number) - expected) <= allowed


def test_the_parts_of_a_mixture_go_round_by_themselves() -> None:
    order = MixedOrder([GlobalOrder(3, 1), GlobalOrder(10, 1)], [1, 1])
    positions = np.arange(60)
    examples = order.examples(0, positions)
    small, large = examples[examples < 3], examples[examples >= 3]
    assert [sorted(turn.tolist()) for turn in small.reshape(10, 3)] == [[0, 1, 2]] * 10
    assert [sorted(turn.tolist()) for turn in large.reshape(3, 10)] == [list(range(3, 13))] * 3
