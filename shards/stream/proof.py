"""The proof that a stream goes on exactly where it stood, for tests of streams of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shards.stream.schedule import World
from shards.stream.stream import Cursor, Step, Stream

MakeStream = Callable[[World], Stream[Any, Any]]
RowsOf = Callable[[Any], Iterable[int]]
Seen = tuple[tuple[int, ...], Cursor]


def rows_of(batch: Any) -> Iterable[int]:
    """The rows of a batch that count."""
    rows: list[int] = batch.rows_B[batch.weights_B > 0].tolist()
    return rows


def steps_seen(
    make: MakeStream, num_ranks: int = 1, cursor: Cursor | None = None, rows: RowsOf = rows_of
) -> list[Seen]:
    """What all ranks together see in every step from a cursor on: rows, sorted, and the cursor
    after it. Raises AssertionError where ranks differ in their steps, or in the cursor."""
    ranks = [_from(make(World(rank, num_ranks)), cursor) for rank in range(num_ranks)]
    lengths = {len(steps) for steps in ranks}
    assert len(lengths) == 1, f"ranks make {sorted(lengths)} steps"
    return [_together(steps, rows) for steps in zip(*ranks, strict=True)]


def assert_resumes_exactly(
    make: MakeStream,
    cuts: Iterable[int] | None = None,
    num_ranks: Sequence[int] = (1,),
    rows: RowsOf = rows_of,
) -> list[Seen]:
    """Stop a stream after each of `cuts` steps (None: every one), go on from its cursor with each
    number of ranks, and demand the same examples in every step that is left.

    Returns what one undisturbed rank sees.
    """
    whole = steps_seen(make, rows=rows)
    for cut in range(len(whole) + 1) if cuts is None else cuts:
        cursor = whole[cut - 1][1] if cut else None
        for count in num_ranks:
            rest = steps_seen(make, count, cursor, rows)
            assert rest == whole[cut:], f"cut after {cut} steps, {count} ranks: other examples"
    return whole


def _from(stream: Stream[Any, Any], cursor: Cursor | None) -> list[Step[Any]]:
    return list(stream.steps() if cursor is None else stream.steps(stream.place(cursor)))


def _together(steps: Sequence[Step[Any]], rows: RowsOf) -> Seen:
    (after,) = {step.after for step in steps}
    found = sorted(row for step in steps for batch in step.batches for row in rows(batch))
    assert len(found) == steps[0].num_examples
    assert len({len(step.batches) for step in steps}) == 1, "ranks differ in micro-batches"
    return tuple(found), after
