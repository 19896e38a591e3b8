"""Which examples each step of a training holds: arithmetic alone, nothing is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Self

import numpy as np

from configs.errors import RecipeMismatch
from shards.commit import differences, fingerprint
from shards.ragged import Indices
from shards.stream.order import Order
from shards.stream.schedule import Place, Schedule, Span


@dataclass(frozen=True)
class Cursor:
    """Where a stream stands: all before `position` of `epoch` is consumed. The same on every rank,
    and valid for any number of them."""

    fingerprint: str  # of the examples, and of the rule of their order
    seed: int
    mode: str
    epoch: int
    position: int

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        return cls(**tree)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Sampler:
    """Examples in an order, cut into steps.

    Args:
        source: the fingerprint of where they are stored.
        rows: which rows of it they are: example 0, 1 ...
        order: which example stands at which position.
        schedule: which positions a step holds.
    """

    source: str
    rows: Indices
    order: Order
    schedule: Schedule

    @cached_property
    def fingerprint(self) -> str:
        """Of all that decides what a position holds, but for the seed."""
        rows = hashlib.sha256(np.ascontiguousarray(self.rows).data).hexdigest()
        return fingerprint({"source": self.source, "rows": rows, "order": self.order.recipe()})

    def cursor(self, place: Place) -> Cursor:
        order = self.order
        return Cursor(self.fingerprint, order.seed, order.name, place.epoch, place.position)

    def place(self, cursor: Cursor) -> Place:
        """Where to go on; raises RecipeMismatch for a cursor of another stream."""
        place = Place(cursor.epoch, cursor.position)
        if differing := differences(cursor.to_json(), self.cursor(place).to_json()):
            raise RecipeMismatch(
                "the stream of a checkpoint", differing, "Its examples would come in another order."
            )
        return place

    def examples(self, spans: Iterable[Span]) -> tuple[Indices, Indices, Indices]:
        """The rows of some spans in their order, as ranks together see them, and the epoch and
        position of each."""
        rows, epochs, places = [], [], []
        for epoch, group in groupby(spans, key=lambda span: span.epoch):
            positions = np.concatenate([np.arange(span.start, span.stop) for span in group])
            rows.append(self.rows[self.order.examples(epoch, positions)])
            epochs.append(np.full(len(positions), epoch))
            places.append(positions)
        return np.concatenate(rows), np.concatenate(epochs), np.concatenate(places)
