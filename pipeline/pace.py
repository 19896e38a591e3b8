"""How fast a stage goes and when it will be done: pure functions of when its shards were made."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_S = 300.0  # the last minutes count: workers come and go
FEW = 8  # shards that a rate needs, where the last minutes made fewer


@dataclass(frozen=True)
class Made:
    """A shard that was committed: when, in seconds since 1970, and how many clips it holds."""

    at_s: float
    clips: int


@dataclass(frozen=True)
class Pace:
    """Shards and clips a second; the first is above zero."""

    shards_per_s: float
    clips_per_s: float

    def left_s(self, num_shards: int) -> float:
        """Seconds that so many shards will take, if it goes on like this."""
        return num_shards / self.shards_per_s


def pace(made: Sequence[Made], began_s: float, now_s: float) -> Pace | None:
    """The pace of a stage that somebody has been working on since `began_s`; None before its first
    shard.

    It is what the last WINDOW_S seconds made, or a longer stretch where that is fewer than FEW
    shards. Work that stands still slows down. Clocks of hosts may differ: what was made after
    `now_s` moves it there.
    """
    times = sorted(shard.at_s for shard in made if shard.at_s > began_s)
    if not times:
        return None
    end_s = max(now_s, times[-1])
    begin_s = max(began_s, min(end_s - WINDOW_S, _before_the_last_few(times, began_s)))
    counted = [shard for shard in made if shard.at_s > begin_s]
    seconds = end_s - begin_s
    return Pace(len(counted) / seconds, sum(shard.clips for shard in counted) / seconds)


def _before_the_last_few(times_s: Sequence[float], began_s: float) -> float:
    """The last time after which there are FEW; `times_s` rise, and may be alike."""
    few = times_s[-FEW:]
    earlier = times_s[: bisect_left(times_s, few[0])] if len(few) == FEW else ()
    return earlier[-1] if earlier else began_s


def duration(seconds: float) -> str:
    """A length of time for people: `40 s`, `12 min`, `3 h 05 min`, `4 days`."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 72 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{round(minutes / 1440)} days"
