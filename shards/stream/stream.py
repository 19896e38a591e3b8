"""Steps of training: which examples each one sees, read ahead, from any place on.

What a step holds is arithmetic (`schedule`, `order`); how its rows are read is the source's. Both
are done for many steps at a time, in threads that run ahead of the consumer; what was read ahead
and not consumed is simply read again after a kill, because a cursor is taken from steps done.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, groupby
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from configs.errors import RecipeMismatch
from shards.commit import fingerprint
from shards.stream.keyed import Indices
from shards.stream.order import Order
from shards.stream.schedule import Part, Piece, Place, Schedule, Span, World, parts_of

MOST_ROWS = 8192  # read at once: enough that what a block costs is shared by many

Chunk = TypeVar("Chunk")
ChunkOut = TypeVar("ChunkOut", covariant=True)
Batch = TypeVar("Batch")


class Source(Protocol[ChunkOut]):
    """Where examples are stored. Rows count from 0."""

    fingerprint: str
    num_rows: int

    def lengths(self, rows: Indices) -> npt.NDArray[np.int32]:
        """How long each row is, in whatever its batches are padded by."""
        ...

    def read(self, rows: Indices) -> ChunkOut:
        """Many rows at once; called from several threads."""
        ...


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


@dataclass(frozen=True)
class Step(Generic[Batch]):
    """A step's micro-batches on this rank, and where the stream stands once it is done."""

    batches: tuple[Batch, ...]
    num_examples: int  # of the global batch, over all ranks
    after: Cursor
    waited_s: float  # by the consumer, for this step


@dataclass(frozen=True)
class _Planned:
    """Steps that are read together."""

    steps: tuple[tuple[tuple[Span, ...], Place], ...]


@dataclass(frozen=True)
class _Read(Generic[Chunk]):
    """What was read of planned steps, and each one's micro-batches in it."""

    chunk: Chunk
    pieces: list[list[Piece]]


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
        self._source, self._order, self._collate = source, order, collate
        self.schedule = schedule
        self.rows = np.arange(order.num_positions) if rows is None else rows
        self._world = world or World()
        self._micro_batch_size = micro_batch_size or schedule.batch_size
        self._sorts_lengths, self._num_threads = sorts_lengths, num_threads
        self._parts_of = lru_cache(maxsize=8)(self._cut)
        self.fingerprint = self._fingerprint()

    def cursor(self, place: Place) -> Cursor:
        return Cursor(
            self.fingerprint, self._order.seed, self._order.name, place.epoch, place.position
        )

    def place(self, cursor: Cursor) -> Place:
        """Where to go on; raises RecipeMismatch for a cursor of another stream."""
        asked = asdict(self.cursor(Place(cursor.epoch, cursor.position)))
        differing = [
            f"{name}: {value} there, {asked[name]} now"
            for name, value in asdict(cursor).items()
            if asked[name] != value
        ]
        if differing:
            raise RecipeMismatch(
                "the stream of a checkpoint", differing, "Its examples would come in another order."
            )
        return Place(cursor.epoch, cursor.position)

    def steps(self, place: Place | None = None) -> Iterator[Step[Batch]]:
        """All steps from a place on (None: the first one)."""
        for planned, read, waited_s in self._reads(self._plans(place or Place(0, 0))):
            for (spans, after), pieces in zip(planned.steps, read.pieces, strict=True):
                yield Step(
                    batches=tuple(self._collate(read.chunk, piece) for piece in pieces),
                    num_examples=sum(span.size for span in spans),
                    after=self.cursor(after),
                    waited_s=waited_s,
                )
                waited_s = 0.0

    def examples(self, spans: Sequence[Span]) -> Indices:
        """The rows of some spans, in their order: what a step of any number of ranks sees."""
        found = []
        for epoch, group in groupby(spans, key=lambda span: span.epoch):
            positions = np.concatenate([np.arange(span.start, span.stop) for span in group])
            found.append(self._order.examples(epoch, positions))
        examples = np.concatenate(found)
        return self.rows[examples]

    def _fingerprint(self) -> str:
        return fingerprint(
            {
                "source": self._source.fingerprint,
                "rows": hashlib.sha256(self.rows.tobytes()).hexdigest(),
                "order": self._order.recipe(),
            }
        )

    def _plans(self, place: Place) -> Iterator[_Planned]:
        """Steps to read together: few at first, so that the first one comes soon."""
        most = max(1, MOST_ROWS * self._world.num_ranks // self.schedule.batch_size)
        steps, count = self.schedule.steps_from(place), 1
        while planned := tuple(step for _, step in zip(range(count), steps, strict=False)):
            yield _Planned(planned)
            count = min(most, 4 * count)

    def _reads(self, plans: Iterator[_Planned]) -> Iterator[tuple[_Planned, _Read[Chunk], float]]:
        """What was read of every plan, in order, and how long the consumer waited for it."""
        if not self._num_threads:
            for planned in plans:
                began_s = time.perf_counter()
                read = self._read(planned)
                yield planned, read, time.perf_counter() - began_s
            return
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="stream")
        try:
            yield from self._ahead(pool, plans)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _ahead(
        self, pool: ThreadPoolExecutor, plans: Iterator[_Planned]
    ) -> Iterator[tuple[_Planned, _Read[Chunk], float]]:
        waiting: deque[tuple[_Planned, Future[_Read[Chunk]]]] = deque()
        while True:
            while len(waiting) <= self._num_threads and (planned := next(plans, None)):
                waiting.append((planned, pool.submit(self._read, planned)))
            if not waiting:
                return
            planned, future = waiting.popleft()
            began_s = time.perf_counter()
            read = future.result()
            yield planned, read, time.perf_counter() - began_s

    def _read(self, planned: _Planned) -> _Read[Chunk]:
        """All rows of this rank in the order of their use, so that a micro-batch is a slice."""
        sizes = [sum(span.size for span in spans) for spans, _ in planned.steps]
        rows = self.examples([*chain.from_iterable(spans for spans, _ in planned.steps)])
        if self._sorts_lengths:
            rows = rows[self._by_length(rows, sizes)]
        places: list[Indices] = []
        pieces: list[list[Piece]] = []
        begin = end = 0
        for size in sizes:
            pieces.append([])
            for part in self._parts_of(size):
                places.append(part.places + begin)
                pieces[-1].append(Piece(end, end + len(part.places), part.num_real))
                end = pieces[-1][-1].stop
            begin += size
        return _Read(self._source.read(rows[np.concatenate(places)]), pieces)

    def _by_length(self, rows: Indices, sizes: Sequence[int]) -> Indices:
        """The places of rows so that within every step they stand by length."""
        steps = np.repeat(np.arange(len(sizes)), sizes)
        return np.lexsort((self._source.lengths(rows), steps))

    def _cut(self, num_examples: int) -> list[Part]:
        filled_to = self.schedule.batch_size if self.schedule.tail == "pad" else 0
        return parts_of(num_examples, self._world, self._micro_batch_size, filled_to)
