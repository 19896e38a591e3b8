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
ROWS_AT_A_TIME = 8192  # so few that no sum below leaves an int64
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
        """The moments of finite frames [T, M]."""
        blocks = [
            _block_sums(frames_TM[start : start + ROWS_AT_A_TIME])
            for start in range(0, len(frames_TM), ROWS_AT_A_TIME)
        ] or [([0] * frames_TM.shape[1],) * 2]
        return cls(
            count=len(frames_TM),
            sums=_by_column(sum, [sums for sums, _ in blocks]),
            squares=_by_column(sum, [squares for _, squares in blocks]),
            low=_extremes(frames_TM, np.min),
            high=_extremes(frames_TM, np.max),
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


def _block_sums(frames_TM: FramesTM) -> tuple[list[int], list[int]]:
    """Sums and sums of squares of up to 8,192 rows, in units of 2^-24 and 2^-48.

    A value is split into high and low bits, so that no product overflows 64 bits.
    """
    steps_TM = (frames_TM.astype(np.float64) * STEPS).astype(np.int64)
    high_TM, low_TM = steps_TM >> LOW_BITS, steps_TM & (1 << LOW_BITS) - 1
    products = (high_TM * high_TM, 2 * high_TM * low_TM, low_TM * low_TM)
    high_high, high_low, low_low = (product.sum(axis=0).tolist() for product in products)
    squares = [
        (hh << 2 * LOW_BITS) + (hl << LOW_BITS) + ll
        for hh, hl, ll in zip(high_high, high_low, low_low, strict=True)
    ]
    return steps_TM.sum(axis=0).tolist(), squares


def _extremes(frames_TM: FramesTM, of: Callable[..., Any]) -> tuple[float, ...] | None:
    return tuple(of(frames_TM, axis=0).astype(float).tolist()) if len(frames_TM) else None


def _by_column(merge: Callable[[Any], Any], rows: Iterable[Iterable[Any]]) -> tuple[Any, ...]:
    return tuple(merge(column) for column in zip(*rows, strict=True))
