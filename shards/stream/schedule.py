"""Which positions a step holds, and which of them a rank: arithmetic on a cursor of two integers.

A step's global batch is cut from positions, and the batch into the parts of ranks and their
micro-batches. So what a step sees depends on neither ranks nor accumulation, and all ranks make
the same number of steps, each with something to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from configs.errors import InputError

Tail = Literal["carry", "drop", "pad"]


@dataclass(frozen=True, order=True)
class Place:
    """A position of an epoch; every example before it has been consumed."""

    epoch: int
    position: int


@dataclass(frozen=True)
class Span:
    """Positions [start, stop) of one epoch."""

    epoch: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class PlannedStep:
    """The positions of a step, and where the stream stands once it is done."""

    spans: tuple[Span, ...]
    after: Place

    @property
    def num_examples(self) -> int:
        """Of the global batch, over all ranks."""
        return sum(span.size for span in self.spans)


@dataclass(frozen=True)
class Schedule:
    """Steps of `batch_size` examples over epochs of `num_positions`.

    What is left of an epoch that no whole batch fits into: `carry` fills the batch up from the
    next epoch (the last batch of all is a short one), `drop` leaves it out, and `pad` makes a batch
    of it that is filled up.
    """

    num_positions: int
    batch_size: int
    num_epochs: int
    tail: Tail = "carry"

    def __post_init__(self) -> None:
        if self.num_positions < 1 or self.batch_size < 1:
            raise ValueError("a schedule needs examples, and batches that hold some")
        if self.tail == "drop" and self.batch_size > self.num_positions:
            raise InputError(
                f"batches of {self.batch_size} and tail `drop` leave nothing of "
                f"{self.num_positions} examples: make batches smaller, or use `carry` or `pad`"
            )

    @property
    def filled_to(self) -> int:
        """How many places every batch has, if need be with nobody in them: 0 for as many as there
        are examples."""
        return self.batch_size if self.tail == "pad" else 0

    def steps_from(self, place: Place) -> Iterator[PlannedStep]:
        """Every step from a place on."""
        while (step := self.step_at(place)) is not None:
            yield step
            place = step.after

    def step_at(self, place: Place) -> PlannedStep | None:
        """The step that begins at a place, None at the end."""
        place = self._settled(place)
        if place.epoch >= self.num_epochs:
            return None
        if self.tail == "carry":
            return self._across(place)
        stop = min(place.position + self.batch_size, self.num_positions)
        span = Span(place.epoch, place.position, stop)
        return PlannedStep((span,), self._settled(Place(place.epoch, stop)))

    def place_of(self, step: int) -> Place:
        """The place before a step, counted from 0 in a training whose batch size never changed."""
        if self.tail == "carry":
            place = Place(*divmod(step * self.batch_size, self.num_positions))
        else:
            epoch, within = divmod(step, self.steps_per_epoch)
            place = Place(epoch, within * self.batch_size)
        return min(place, Place(self.num_epochs, 0))

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch under `drop` and `pad`."""
        whole, left = divmod(self.num_positions, self.batch_size)
        return whole + (self.tail == "pad" and left > 0)

    @property
    def num_steps(self) -> int:
        if self.tail == "carry":
            return -(-self.num_positions * self.num_epochs // self.batch_size)
        return self.steps_per_epoch * self.num_epochs

    def _settled(self, place: Place) -> Place:
        """The same place, but of the next epoch where no step begins in this one any more."""
        left = self.num_positions - place.position
        is_over = left < self.batch_size if self.tail == "drop" else left <= 0
        return Place(place.epoch + 1, 0) if is_over else place

    def _across(self, place: Place) -> PlannedStep:
        spans, wanted = [], self.batch_size
        while wanted and place.epoch < self.num_epochs:
            stop = min(place.position + wanted, self.num_positions)
            spans.append(Span(place.epoch, place.position, stop))
            wanted -= spans[-1].size
            place = self._settled(Place(place.epoch, stop))
        return PlannedStep(tuple(spans), place)


@dataclass(frozen=True)
class World:
    """Which of the training processes this is."""

    rank: int = 0
    num_ranks: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.num_ranks:
            raise ValueError(f"rank {self.rank} is none of {self.num_ranks}")


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a chunk that was read in the order of its use: a micro-batch. The first
    `num_real` count; the others are repeated to fill it up, and weigh nothing. `seeds` [n] are for
    what is drawn for each row: functions of (seed, epoch, position)."""

    start: int
    stop: int
    num_real: int
    seeds: npt.NDArray[np.uint64]

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """1 for each row that counts, 0 for the others."""
        weights = np.ones(self.stop - self.start, dtype=np.float32)
        weights[self.num_real :] = 0.0
        return weights


@dataclass(frozen=True)
class Part:
    """A rank's micro-batch as places in the global batch, of which the first `num_real` count."""

    places: npt.NDArray[np.int64]
    num_real: int


@lru_cache(maxsize=64)  # nearly all steps are of one size
def parts_of(
    num_examples: int, world: World, micro_batch_size: int, filled_to: int = 0
) -> tuple[Part, ...]:
    """The micro-batches of a rank: as many on every rank, none of them empty.

    Micro-batch m of all ranks together is a contiguous piece of the global batch, dealt out in
    turn: where the batch is sorted by length, all ranks work on similar lengths at the same time.
    The batch counts as `filled_to` examples, if it has fewer.
    """
    together = world.num_ranks * micro_batch_size
    total = max(num_examples, filled_to)
    return tuple(
        _part(start, min(start + together, total), num_examples, world)
        for start in range(0, total, together)
    )


def _part(start: int, stop: int, num_examples: int, world: World) -> Part:
    places = np.arange(start + world.rank, stop, world.num_ranks, dtype=np.int64)
    if not len(places):
        places = np.array([num_examples], dtype=np.int64)
    return Part(places % num_examples, int(np.count_nonzero(places < num_examples)))
