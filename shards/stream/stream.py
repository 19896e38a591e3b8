"""Steps of training: which examples each one sees, read ahead, from any place on.

What a step holds is arithmetic (`schedule`, `order`); how its rows are read is the source's. Both
are done for many steps at a time, in threads that run ahead of the consumer; what was read ahead
and not consumed is simply read again after a kill, because a cursor is taken from steps done.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from shards.ragged import Indices
from shards.stream.keyed import example_seeds
from shards.stream.order import Order
from shards.stream.sampler import Cursor, Sampler
from shards.stream.schedule import Part, Piece, Place, PlannedStep, Schedule, World, parts_of
from shards.stream.threads import Threads

Chunk = TypeVar("Chunk")
ChunkOut = TypeVar("ChunkOut", covariant=True)
Batch = TypeVar("Batch")


class Source(Protocol[ChunkOut]):
    """Where examples are stored. Rows count from 0."""

    fingerprint: str
    num_rows: int
    rows_at_once: int  # what a read may hold: enough that what a unit of storage costs is shared

    def lengths(self, rows: Indices) -> npt.NDArray[np.int32]:
        """How long each row is, in whatever its batches are padded by."""
        ...

    def read(self, rows: Indices) -> ChunkOut:
        """Many rows at once; called from several threads."""
        ...


@dataclass(frozen=True)
class Step(Generic[Batch]):
    """A step's micro-batches on this rank, and where the stream stands once it is done.

    Its share of the time to read and to collate says how much a loader has to do; only what the
    consumer waited is lost.
    """

    batches: tuple[Batch, ...]
    num_examples: int  # of the global batch, over all ranks
    after: Cursor
    waited_s: float  # by the consumer, for this step
    read_s: float = 0.0
    collate_s: float = 0.0


_Planned = tuple[PlannedStep, ...]  # that are read together


@dataclass(frozen=True)
class _Read(Generic[Chunk]):
    """What was read of planned steps, each one's micro-batches in it, and how long that took."""

    chunk: Chunk
    pieces: list[list[Piece]]
    seconds: float


class Stream(Generic[Chunk, Batch]):
    """Examples of a source in an order, cut into steps.

    Args:
        source: where the examples are stored.
        order: which example stands at which position.
        schedule: which positions a step holds.
        collate: makes a micro-batch of a piece of a chunk.
        rows: the source's rows that are examples, in order; None: all.
        world: which part of every step is this process's.
        micro_batch_size: most examples of a micro-batch; None: all that a rank has.
        sorts_lengths: whether examples of a step stand by their length, so that micro-batches hold
            similar ones.
        num_threads: that read ahead; 0: none does, a step is read when it is asked for.
    """

    def __init__(
        self,
        source: Source[Chunk],
        order: Order,
        schedule: Schedule,
        collate: Callable[[Chunk, Piece], Batch],
        *,
        rows: Indices | None = None,
        world: World | None = None,
        micro_batch_size: int | None = None,
        sorts_lengths: bool = False,
        num_threads: int = 1,
    ) -> None:
        rows = np.arange(order.num_positions) if rows is None else rows
        self.sampler = Sampler(source.fingerprint, rows, order, schedule)
        self._source, self._collate = source, collate
        self._world = world or World()
        self._micro_batch_size = micro_batch_size or schedule.batch_size
        self._sorts_lengths, self._num_threads = sorts_lengths, num_threads

    def steps(
        self, place: Place | None = None, *, worker: int = 0, num_workers: int = 1
    ) -> Generator[Step[Batch], None, None]:
        """All steps from a place on (None: the first one); of several loader workers, each makes
        every `num_workers`-th, beginning with its own number."""
        steps = self.sampler.schedule.steps_from(place or Place(0, 0))
        plans = self._plans(islice(steps, worker, None, num_workers))
        for planned, read, waited_s in self._reads(plans):
            read_s = read.seconds / len(planned)
            for step, pieces in zip(planned, read.pieces, strict=True):
                began_s = time.perf_counter()
                batches = tuple(self._collate(read.chunk, piece) for piece in pieces)
                collate_s = time.perf_counter() - began_s
                waited_s += collate_s
                after = self.sampler.cursor(step.after)
                yield Step(batches, step.num_examples, after, waited_s, read_s, collate_s)
                waited_s = 0.0

    def _plans(self, steps: Iterator[PlannedStep]) -> Iterator[_Planned]:
        """Steps to read together: few at first, so that the first one comes soon."""
        rows = self._source.rows_at_once * self._world.num_ranks
        most, count = max(1, rows // self.sampler.schedule.batch_size), 1
        while planned := tuple(islice(steps, count)):
            yield planned
            count = min(most, 4 * count)

    def _reads(self, plans: Iterator[_Planned]) -> Iterator[tuple[_Planned, _Read[Chunk], float]]:
        """What was read of every plan, in order, and how long the consumer waited for it."""
        if not self._num_threads:
            for planned in plans:
                began_s = time.perf_counter()
                read = self._read(planned)
                yield planned, read, time.perf_counter() - began_s
        else:
            yield from self._ahead(plans)

    def _ahead(self, plans: Iterator[_Planned]) -> Iterator[tuple[_Planned, _Read[Chunk], float]]:
        threads = Threads(self._num_threads)
        waiting: deque[tuple[_Planned, Future[_Read[Chunk]]]] = deque()
        try:
            while True:
                while len(waiting) <= self._num_threads and (planned := next(plans, None)):
                    waiting.append((planned, threads.submit(partial(self._read, planned))))
                if not waiting:
                    return
                planned, future = waiting.popleft()
                began_s = time.perf_counter()
                read = future.result()
                yield planned, read, time.perf_counter() - began_s
        finally:
            for _, future in waiting:
                future.cancel()
            threads.end()

    def _read(self, planned: _Planned) -> _Read[Chunk]:
        """All rows of this rank in the order of their use, so that a micro-batch is a slice."""
        began_s = time.perf_counter()
        sizes = [step.num_examples for step in planned]
        spans = chain.from_iterable(step.spans for step in planned)
        rows, epochs, positions = self.sampler.examples(spans)
        seeds = example_seeds(self.sampler.order.seed, epochs, positions)
        if self._sorts_lengths:
            by_length = self._by_length(rows, sizes)
            rows, seeds = rows[by_length], seeds[by_length]
        parts = [self._parts(size) for size in sizes]
        starts = np.cumsum([0, *sizes])
        places = np.concatenate(
            [part.places + start for own, start in zip(parts, starts, strict=False) for part in own]
        )
        chunk = self._source.read(rows[places])
        pieces = list(_pieces(parts, seeds[places]))
        return _Read(chunk, pieces, time.perf_counter() - began_s)

    def _by_length(self, rows: Indices, sizes: Sequence[int]) -> Indices:
        """The places of rows so that within every step they stand by length."""
        steps = np.repeat(np.arange(len(sizes)), sizes)
        return np.lexsort((self._source.lengths(rows), steps))

    def _parts(self, num_examples: int) -> tuple[Part, ...]:
        filled_to = self.sampler.schedule.filled_to
        return parts_of(num_examples, self._world, self._micro_batch_size, filled_to)


def _pieces(
    parts: Sequence[Sequence[Part]], seeds: npt.NDArray[np.uint64]
) -> Iterator[list[Piece]]:
    """The micro-batches of every step, which lie one after another."""
    start = 0
    for of_step in parts:
        pieces = []
        for part in of_step:
            stop = start + len(part.places)
            pieces.append(Piece(start, stop, part.num_real, seeds[start:stop]))
            start = stop
        yield pieces
