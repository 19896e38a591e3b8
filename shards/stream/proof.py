"""The proof that a stream goes on exactly where it stood, for tests of streams of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, product
from typing import Any

import numpy as np

from shards.stream.sampler import Cursor
from shards.stream.schedule import World
from shards.stream.stream import Step, Stream

MakeStream = Callable[[World], Stream[Any, Any]]
Seen = tuple[tuple[int, ...], Cursor]


def rows_of(batch: Any) -> Iterable[int]:
    """The rows of a batch that count."""
    rows: list[int] = batch.rows_B[np.asarray(batch.weights_B) > 0].tolist()
    return rows


def steps_seen(
    make: MakeStream,
    num_ranks: int = 1,
    cursor: Cursor | None = None,
    num_workers: int = 1,
) -> list[Seen]:
    """What all ranks together see in every step from a cursor on: rows, sorted, and the cursor
    after it. Raises AssertionError where ranks differ in their steps, or in the cursor."""
    worlds = [World(rank, num_ranks) for rank in range(num_ranks)]
    ranks = [[*_from(make(world), cursor, num_workers)] for world in worlds]
    lengths = {len(steps) for steps in ranks}
    assert len(lengths) == 1, f"ranks make {sorted(lengths)} steps"
    return [_together(steps) for steps in zip(*ranks, strict=True)]


def assert_resumes_exactly(
    make: MakeStream,
    cuts: Iterable[int] | None = None,
    num_ranks: Sequence[int] = (1,),
    num_workers: Sequence[int] = (1,),
) -> list[Seen]:
    """Stop a stream after each of `cuts` steps (None: every one), go on from its cursor with each
    number of ranks and of loader workers a rank, and demand the same examples in every step that is
    left.

    Returns what one undisturbed rank sees.
    """
    whole = steps_seen(make)
    for cut in range(len(whole) + 1) if cuts is None else cuts:
        cursor = whole[cut - 1][1] if cut else None
        for ranks, workers in product(num_ranks, num_workers):
            rest = steps_seen(make, ranks, cursor, workers)
            world = f"{ranks} ranks with {workers} loader workers"
            assert rest == whole[cut:], f"cut after {cut} steps, {world}: other examples"
    return whole


def _from(stream: Stream[Any, Any], cursor: Cursor | None, num_workers: int) -> Iterator[Step[Any]]:
    """Workers give their steps in turn, until the first that has none left."""
    place = None if cursor is None else stream.sampler.place(cursor)
    workers = [
        stream.steps(place, worker=number, num_workers=num_workers) for number in range(num_workers)
    ]
    for worker in cycle(workers):
        step = next(worker, None)
        if step is None:
            break
        yield step
    assert all(next(worker, None) is None for worker in workers), "a worker has more steps"


def _together(steps: Sequence[Step[Any]]) -> Seen:
    (after,) = {step.after for step in steps}
    found = sorted(row for step in steps for batch in step.batches for row in rows_of(batch))
    assert len(found) == steps[0].num_examples
    assert len({len(step.batches) for step in steps}) == 1, "ranks differ in micro-batches"
    return tuple(found), after
