"""Which example stands at a position: pure functions of (seed, epoch, position).

An order has no state and no iterator. Any position can be asked for at any time, by any process, so
to resume is to ask for the next one, and no number of ranks or workers changes what stands where.
Examples are numbers from 0; a stream knows which stored rows they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shards.ragged import Indices, starts_of
from shards.stream.keyed import DRAWS, EXAMPLES, UNITS, WITHIN, Permutation, draws

Weights = npt.NDArray[np.float64]

WEIGHT_STEPS = 2**30  # of the largest weight; the sum over 8 million examples is exact as a float


class Order(Protocol):
    """A row of examples for every epoch."""

    @property
    def name(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def num_positions(self) -> int:
        """Positions of an epoch."""
        ...

    def examples(self, epoch: int, positions: Indices) -> Indices:
        """The examples at some positions of an epoch, int64 of the same shape."""
        ...

    def recipe(self) -> dict[str, Any]:
        """Whatever else than the seed decides the order."""
        ...


@dataclass(frozen=True)
class GlobalOrder:
    """Every example once an epoch, each permutation of all of them as likely as any other."""

    num_positions: int
    seed: int
    name: str = "global"

    def examples(self, epoch: int, positions: Indices) -> Indices:
        return _permutation(self.num_positions, EXAMPLES, self.seed, epoch)(positions)

    def recipe(self) -> dict[str, Any]:
        return {"mode": self.name, "positions": self.num_positions}


@dataclass(frozen=True)
class StoredOrder:
    """Every example once an epoch, as they are stored: for scores, and for measuring readers."""

    num_positions: int
    seed: int = 0  # which decides nothing
    name: str = "stored"

    def examples(self, epoch: int, positions: Indices) -> Indices:  # noqa: ARG002
        return positions

    def recipe(self) -> dict[str, Any]:
        return {"mode": self.name, "positions": self.num_positions}


class WindowOrder:
    """Every example once an epoch, from few units of storage at a time.

    Units (blocks, chunks) are permuted and cut into windows of about `window_units`; the examples
    of a window are permuted among each other. A reader needs one or two windows at hand, no more.
    """

    name = "window"

    def __init__(self, unit_sizes: Sequence[int] | Indices, window_units: int, seed: int) -> None:
        self._sizes = np.asarray(unit_sizes, dtype=np.int64)
        self._first = starts_of(self._sizes)[:-1]
        self._num_windows = max(1, -(-len(self._sizes) // window_units))
        self.seed = seed
        self.num_positions = int(self._sizes.sum())
        self._laid_out: tuple[int, _Windows] | None = None  # the last epoch's

    def examples(self, epoch: int, positions: Indices) -> Indices:
        laid_out = self._of(epoch)
        windows = np.searchsorted(laid_out.window_starts, positions, side="right") - 1
        examples = np.empty_like(positions)
        for window in np.unique(windows).tolist():
            here = windows == window
            examples[here] = self._in_window(laid_out, epoch, window, positions[here])
        return examples

    def recipe(self) -> dict[str, Any]:
        return {"mode": self.name, "units": _hash_of(self._sizes), "windows": self._num_windows}

    def _of(self, epoch: int) -> _Windows:
        found = self._laid_out
        if found is None or found[0] != epoch:
            self._laid_out = found = epoch, self._lay_out(epoch)
        return found[1]

    def _lay_out(self, epoch: int) -> _Windows:
        units = Permutation(len(self._sizes), UNITS, self.seed, epoch)(
            np.arange(len(self._sizes), dtype=np.int64)
        )
        starts = starts_of(self._sizes[units])
        edges = np.linspace(0, len(units), self._num_windows + 1).round().astype(np.int64)
        return _Windows(units, starts, starts[edges])

    def _in_window(
        self, laid_out: _Windows, epoch: int, window: int, positions: Indices
    ) -> Indices:
        start, stop = laid_out.window_starts[window : window + 2].tolist()
        shuffled = _permutation(stop - start, WITHIN, self.seed, epoch, window)
        places = start + shuffled(positions - start)
        ranks = np.searchsorted(laid_out.unit_starts, places, side="right") - 1
        examples: Indices = (
            self._first[laid_out.units[ranks]] + places - laid_out.unit_starts[ranks]
        )
        return examples


@dataclass(frozen=True)
class _Windows:
    """An epoch of a WindowOrder: its units in their order, and where units and windows begin."""

    units: Indices
    unit_starts: Indices
    window_starts: Indices


class WeightedOrder:
    """Draws with replacement, each example as often as its weight says.

    A draw is a function of (seed, epoch, position) too, so it resumes like the others. An epoch
    has as many positions as there are examples; which of them come, and how often, is left to
    chance.
    """

    name = "weighted"

    def __init__(self, weights: Weights, seed: int) -> None:
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ValueError("weights are finite, none is negative, and one is above 0")
        # In whole numbers: processors differ in the last bit of a power.
        shares = np.ceil(weights / weights.max() * WEIGHT_STEPS - 0.5).astype(np.int64)
        shares[(weights > 0) & (shares == 0)] = 1  # none is left out for good
        self._ends = np.cumsum(shares)
        self.seed = seed
        self.num_positions = len(weights)

    def examples(self, epoch: int, positions: Indices) -> Indices:
        shares = draws(positions, DRAWS, self.seed, epoch) * float(self._ends[-1])
        points = shares.astype(np.int64)
        return np.searchsorted(self._ends, points, side="right").astype(np.int64)

    def recipe(self) -> dict[str, Any]:
        return {"mode": self.name, "weights": _hash_of(self._ends)}


def balancing_weights(labels: npt.NDArray[np.integer], starts: Indices, strength: float) -> Weights:
    """How often to draw each clip, so that rare classes come more often.

    `labels` are the class numbers of all clips, flat; `starts` [clips + 1] where each one's begin.
    A clip weighs the sum over its labels of one over the label's number of clips (Gong, Chung,
    Glass, "PSLA", 2021), to the power of `strength`: 0 draws clips alike, 1 as in PSLA. A clip
    without labels weighs as much as the lightest that has some.
    """
    num_labels = np.diff(starts)
    clip_of = np.repeat(np.arange(len(num_labels)), num_labels)
    rarity = 1.0 / np.maximum(np.bincount(labels, minlength=1), 1)
    weights = np.bincount(clip_of, rarity[labels], minlength=len(num_labels))
    has_labels = num_labels > 0
    weights[~has_labels] = weights[has_labels].min() if has_labels.any() else 1.0
    balanced: Weights = np.power(weights, strength, dtype=np.float64)
    return balanced


class MixedOrder:
    """Several orders in fixed shares, each going round by itself.

    The shares hold in every stretch, not on average only: which part has a position is written in
    a table of TURNS turns in which each part's are spread evenly. Examples of the second part are
    counted on from those of the first. An epoch has as many positions as all of them together.
    """

    name = "mixed"
    TURNS = 10_000

    def __init__(self, parts: Sequence[Order], shares: Sequence[float]) -> None:
        self._parts = tuple(parts)
        self.seed = parts[0].seed
        self._first = starts_of(np.array([part.num_positions for part in parts]))
        self._turns = _apportioned(shares, self.TURNS)
        self._part_of = _interleaved(self._turns)
        is_of = self._part_of[:, None] == np.arange(len(parts))
        self._before = np.cumsum(is_of, axis=0) - is_of  # of each part, turns before a turn
        self.num_positions = int(self._first[-1])

    def examples(self, epoch: int, positions: Indices) -> Indices:
        rounds, turns = np.divmod(epoch * self.num_positions + positions, self.TURNS)
        examples = np.empty_like(positions)
        for number, part in enumerate(self._parts):
            here = self._part_of[turns] == number
            own = rounds[here] * self._turns[number] + self._before[turns[here], number]
            examples[here] = self._first[number] + self._own(part, own)
        return examples

    def recipe(self) -> dict[str, Any]:
        return {
            "mode": self.name,
            "turns": self._turns.tolist(),
            "parts": [{"seed": part.seed, **part.recipe()} for part in self._parts],
        }

    def _own(self, part: Order, positions: Indices) -> Indices:
        """The examples of a part at positions that count over all its epochs."""
        epochs, within = np.divmod(positions, part.num_positions)
        examples = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            examples[epochs == epoch] = part.examples(epoch, within[epochs == epoch])
        return examples


def _apportioned(shares: Sequence[float], turns: int) -> Indices:
    """Whole turns for each share, by the largest remainders."""
    exact = np.asarray(shares, dtype=np.float64) / sum(shares) * turns
    whole = np.floor(exact).astype(np.int64)
    largest = np.argsort(whole - exact, kind="stable")[: turns - int(whole.sum())]
    whole[largest] += 1
    return whole


def _interleaved(turns: Indices) -> Indices:
    """Which part has each turn: those of a part lie as far from each other as they can."""
    parts = np.repeat(np.arange(len(turns)), turns)
    moments = np.concatenate([(np.arange(count) + 0.5) / count for count in turns.tolist()])
    return parts[np.argsort(moments, kind="stable")]


def _hash_of(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@lru_cache(maxsize=64)  # a step asks for the same one, or two, as the step before
def _permutation(size: int, *key: int) -> Permutation:
    return Permutation(size, *key)
