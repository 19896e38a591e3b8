"""Mean, deviation and range of the frames, merged from shards without any rounding.

Every finite float16 is a whole number of 2^-24. Sums, and sums of squares, are kept as integers
of 2^-24 and 2^-48: they merge exactly, in any order and grouping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

STEPS = 2.0**24  # in 1
LOW_BITS = 16

FramesTM = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Moments:
    """Of each column: the sum in units of 2^-24, the sum of squares in units of 2^-48, and the
    range; over `count` rows (of none, the range is None)."""

    count: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None

    @classmethod
    def of(cls, frames_TM: FramesTM) -> Self:
        """The moments of finite frames [T, M].

        There are only 65,536 float16: counting each one costs a fraction of adding them all up.
        """
        columns = [_Counted.of(column_T) for column_T in np.ascontiguousarray(frames_TM.T)]
        return cls(
            count=len(frames_TM),
            sums=tuple(column.total for column in columns),
            squares=tuple(column.total_of_squares for column in columns),
            low=tuple(column.low for column in columns) if len(frames_TM) else None,
            high=tuple(column.high for column in columns) if len(frames_TM) else None,
        )

    @classmethod
    def merged(cls, parts: Iterable[Self]) -> Self:
        """The moments of all rows of all parts; at least one part is needed."""
        given = list(parts)
        return cls(
            count=sum(part.count for part in given),
            sums=_by_column(sum, [part.sums for part in given]),
            squares=_by_column(sum, [part.squares for part in given]),
            low=_by_column(min, [part.low for part in given if part.low]) or None,
            high=_by_column(max, [part.high for part in given if part.high]) or None,
        )

    @property
    def mean(self) -> list[float]:
        return [total / self.count / STEPS for total in self.sums]

    @property
    def std(self) -> list[float]:
        """The deviation over all rows (of the population, not a sample)."""
        pairs = zip(self.sums, self.squares, strict=True)
        spread = (squares * self.count - total * total for total, squares in pairs)
        return [math.sqrt(value) / self.count / STEPS for value in spread]

    def to_json(self) -> dict[str, Any]:
        """As it stands in a commit record."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        low, high = tree["low"], tree["high"]
        return cls(
            count=tree["count"],
            sums=tuple(tree["sums"]),
            squares=tuple(tree["squares"]),
            low=None if low is None else tuple(low),
            high=None if high is None else tuple(high),
        )

    def summary(self) -> dict[str, Any]:
        """What people read: count, and mean, std, min and max of each column."""
        if not self.count:
            return {"count": 0}
        return {
            "count": self.count,
            "mean": self.mean,
            "std": self.std,
            "min": self.low,
            "max": self.high,
        }


@dataclass(frozen=True)
class _Counted:
    """One column's distinct values, in units of 2^-24, and how often each stands there."""

    steps: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, column_T: npt.NDArray[np.float16]) -> Self:
        counts = np.bincount(column_T.view(np.uint16), minlength=1 << 16)
        present = np.flatnonzero(counts)
        values = present.astype(np.uint16).view(np.float16).astype(np.float64)
        return cls((values * STEPS).astype(np.int64), counts[present])

    @property
    def total(self) -> int:
        return self._times(self.steps)

    @property
    def total_of_squares(self) -> int:
        """Values are split into high and low bits, so that no square leaves 64 bits."""
        high, low = self.steps >> LOW_BITS, self.steps & (1 << LOW_BITS) - 1
        middle = self._times(2 * high * low) << LOW_BITS
        return (self._times(high * high) << 2 * LOW_BITS) + middle + self._times(low * low)

    @property
    def low(self) -> float:
        return int(self.steps.min()) / STEPS

    @property
    def high(self) -> float:
        return int(self.steps.max()) / STEPS

    def _times(self, numbers: npt.NDArray[np.int64]) -> int:
        """The sum of numbers times counts; in Python's integers where it could leave 64 bits."""
        largest = int(np.abs(numbers).max(initial=0))
        if largest * int(self.counts.sum()) < 1 << 63:
            return int(numbers @ self.counts)
        pairs = zip(numbers.tolist(), self.counts.tolist(), strict=True)
        return sum(number * count for number, count in pairs)


def _by_column(merge: Callable[[Any], Any], rows: Iterable[Iterable[Any]]) -> tuple[Any, ...]:
    return tuple(merge(column) for column in zip(*rows, strict=True))
