"""Rates and times left: what evenly made shards give, and what no list of times may break."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pace import FEW, WINDOW_S, Made, duration, pace

NOW_S = 1_800_000_000.0
SECONDS = st.floats(0, 1e6)
MADE = st.lists(st.builds(Made, st.floats(NOW_S - 1e6, NOW_S + 1e3), st.integers(0, 2_000)))


def evenly(number: int, every_s: float, clips: int = 10, until_s: float = NOW_S) -> list[Made]:
    """The last at `until_s`, as a stage that began `number * every_s` before."""
    return [Made(until_s - every_s * back, clips) for back in range(number)]


@given(st.integers(1, 300), st.floats(0.01, 2_000))
def test_shards_at_even_times_have_that_rate(number: int, every_s: float) -> None:
    """Within one shard in the window: it may begin just before or after one."""
    found = pace(evenly(number, every_s), NOW_S - number * every_s, NOW_S)
    assert found is not None
    counted = min(number, max(FEW, WINDOW_S / every_s))
    assert found.shards_per_s == pytest.approx(1 / every_s, rel=1.01 / counted)
    assert found.clips_per_s == pytest.approx(10 * found.shards_per_s)
    assert found.left_s(30) == pytest.approx(30 / found.shards_per_s)


@given(MADE, SECONDS)
def test_any_times_give_a_rate_above_zero_or_none(made: list[Made], ago_s: float) -> None:
    found = pace(made, NOW_S - ago_s, NOW_S)
    is_any = any(shard.at_s > NOW_S - ago_s for shard in made)
    assert (found is not None) == is_any
    if found is not None:
        assert found.shards_per_s > 0
        assert math.isfinite(found.left_s(1_000))
        assert found.clips_per_s >= 0


@given(MADE, SECONDS, st.floats(0, 1e5))
def test_a_rate_only_falls_while_nothing_is_made(
    made: list[Made], ago_s: float, later_s: float
) -> None:
    """Once the window holds fewer than FEW shards, and forever after."""
    began_s = NOW_S - ago_s
    quiet_s = NOW_S + 1e3 + WINDOW_S  # after the last one, by all clocks
    first, second = pace(made, began_s, quiet_s), pace(made, began_s, quiet_s + later_s)
    if first is not None and second is not None:
        assert second.shards_per_s <= first.shards_per_s


def test_shards_of_an_earlier_stretch_of_work_do_not_count() -> None:
    old = evenly(1_000, 1.0, until_s=NOW_S - 40)
    new = evenly(3, 10.0)
    found = pace([*old, *new], NOW_S - 30, NOW_S)
    assert found is not None
    assert found.shards_per_s == pytest.approx(3 / 30)
    assert pace(old, NOW_S - 30, NOW_S) is None


def test_a_first_burst_is_no_rate_of_its_own() -> None:
    """16 workers end their first shards at the same moment, 20 s after the start."""
    found = pace([Made(NOW_S, 1_024)] * 16, NOW_S - 20, NOW_S)
    assert found is not None
    assert found.shards_per_s == pytest.approx(16 / 20)


def test_shards_made_at_one_moment_long_ago_still_have_a_rate() -> None:
    found = pace([Made(NOW_S - 1_000, 1)] * 20, NOW_S - 1_500, NOW_S)
    assert found is not None
    assert found.shards_per_s == pytest.approx(20 / 1_500)


def test_workers_that_went_away_are_forgotten_after_some_minutes() -> None:
    fast = evenly(600, 1.0, until_s=NOW_S - 310)
    slow = evenly(31, 10.0)
    found = pace([*fast, *slow], NOW_S - 2_000, NOW_S)
    assert found is not None
    assert found.shards_per_s == pytest.approx(1 / 10, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (5_000, "83 min"),
        (11_100, "3 h 05 min"),
        (3 * 86_400, "3 days"),
    ],
)
def test_durations_are_said_in_the_unit_that_fits(seconds: float, said: str) -> None:
    assert duration(seconds) == said
