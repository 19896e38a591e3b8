"""What a step sees depends on nothing but the cursor: not on ranks, threads, micro-batches or
kills. The source here is rows that are their own content; `test_tokens` reads real ones."""

from __future__ import annotations

import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import InputError, RecipeMismatch
from shards.ragged import Indices
from shards.stream.order import GlobalOrder, Order, WeightedOrder, WindowOrder
from shards.stream.proof import Seen, assert_resumes_exactly, rows_of, steps_seen
from shards.stream.sampler import Cursor, Sampler
from shards.stream.schedule import Piece, Place, Schedule, Tail, World
from shards.stream.stream import Stream

TAILS: tuple[Tail, ...] = ("carry", "drop", "pad")
NUM_CASES, PIECES = 5_000, 4


@dataclass
class Numbers:
    """Rows that are what they hold; row r is as long as r modulo 7."""

    num_rows: int
    fingerprint: str = "numbers"
    rows_at_once: int = 8192
    delay_s: float = 0.0
    reads: int = 0

    def lengths(self, rows: Indices) -> Any:
        return (rows % 7).astype(np.int32)

    def read(self, rows: Indices) -> Indices:
        time.sleep(self.delay_s)
        self.reads += 1
        return rows


@dataclass(frozen=True)
class Few:
    rows_B: Indices
    weights_B: Any
    seeds_B: Any


def collate(chunk: Indices, piece: Piece) -> Few:
    return Few(chunk[piece.rows], piece.weights, piece.seeds)


@dataclass(frozen=True)
class Case:
    """Everything that a stream is made of."""

    num_rows: int = 40
    batch_size: int = 6
    num_epochs: int = 2
    tail: Tail = "carry"
    mode: str = "global"
    seed: int = 0
    num_threads: int = 0
    micro_batch_size: int | None = None
    sorts_lengths: bool = False
    every: int = 1  # which rows are examples

    @property
    def rows(self) -> Indices | None:
        return None if self.every == 1 else np.arange(0, self.num_rows, self.every)

    @property
    def num_examples(self) -> int:
        return len(range(0, self.num_rows, self.every))

    def order(self) -> Order:
        if self.mode == "window":
            sizes = np.bincount(np.arange(self.num_examples) // 4)
            return WindowOrder(sizes, 3, self.seed)
        if self.mode == "weighted":
            return WeightedOrder(np.arange(1.0, self.num_examples + 1), self.seed)
        return GlobalOrder(self.num_examples, self.seed)

    def stream(self, world: World | None = None, **over: Any) -> Stream[Indices, Few]:
        return Stream(
            Numbers(self.num_rows),
            self.order(),
            Schedule(self.num_examples, self.batch_size, self.num_epochs, self.tail),
            collate,
            world=world,
            rows=self.rows,
            num_threads=self.num_threads,
            micro_batch_size=self.micro_batch_size,
            sorts_lengths=self.sorts_lengths,
            **over,
        )


def drawn_case(rng: np.random.Generator, batches: Sequence[int] = range(1, 20)) -> Case:
    num_rows = int(rng.integers(1, 60))
    every = int(rng.choice([1, 1, 2, 3]))
    num_examples = len(range(0, num_rows, every))
    tail = TAILS[rng.integers(3)]
    batch_size = int(rng.choice(batches))
    return Case(
        num_rows=num_rows,
        batch_size=min(batch_size, num_examples) if tail == "drop" else batch_size,
        num_epochs=int(rng.integers(1, 4)),
        tail=tail,
        mode=str(rng.choice(["global", "window", "weighted"])),
        seed=int(rng.integers(2**62)),
        num_threads=int(rng.choice([0] * 8 + [1, 2])),
        micro_batch_size=int(rng.integers(1, 9)) if rng.random() < 0.5 else None,
        sorts_lengths=bool(rng.random() < 0.3),
        every=every,
    )


def check_resume(case: Case, whole: list[Seen], rng: np.random.Generator) -> None:
    """Killed several times, each time going on with another number of ranks, of loader workers and
    threads, and another micro-batch, it sees what an undisturbed rank sees."""
    seen: list[Seen] = []
    cursor = None
    while len(seen) < len(whole):
        num_ranks, num_workers = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        now = replace(
            case,
            num_threads=int(rng.choice([0] * 8 + [1])),
            micro_batch_size=int(rng.integers(1, 9)),
        )
        rest = steps_seen(now.stream, num_ranks, cursor, num_workers=num_workers)
        assert rest == whole[len(seen) :]
        seen += rest[: int(rng.integers(1, len(rest) + 1))]
        cursor = seen[-1][1]
    assert steps_seen(case.stream, 2, cursor) == []


def check_counts(case: Case, whole: list[Seen]) -> None:
    """Each example exactly once an epoch, where the order and the tail promise that."""
    seen = Counter(row for rows, _ in whole for row in rows)
    examples = range(0, case.num_rows, case.every)
    assert set(seen) <= set(examples)
    if case.mode == "weighted":
        return
    if case.tail == "drop":
        dropped = case.num_examples % case.batch_size
        assert sum(seen.values()) == case.num_epochs * (case.num_examples - dropped)
        assert max(seen.values()) <= case.num_epochs
    else:
        assert seen == dict.fromkeys(examples, case.num_epochs)


@pytest.mark.parametrize("part", range(PIECES))
def test_generated_streams_resume_exactly_and_lose_nothing(part: int) -> None:
    rng = np.random.default_rng([20, part])
    for number in range(NUM_CASES // PIECES):
        case = drawn_case(rng)
        try:
            whole = steps_seen(case.stream)
            check_counts(case, whole)
            check_resume(case, whole, rng)
        except AssertionError as error:
            error.add_note(f"case {number}: {case}")
            raise


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("mode", ["global", "window", "weighted"])
def test_every_cut_on_1_2_and_4_ranks(tail: Tail, mode: str) -> None:
    case = Case(num_rows=23, batch_size=5, num_epochs=3, tail=tail, mode=mode, micro_batch_size=2)
    assert_resumes_exactly(case.stream, num_ranks=(1, 2, 4), num_workers=(1, 2))


def test_the_proof_finds_a_stream_that_does_not_resume() -> None:
    class Forgetful(Sampler):
        def place(self, cursor: Cursor) -> Place:
            return Place(cursor.epoch, max(0, cursor.position - 1))

    def make(world: World) -> Stream[Indices, Few]:
        stream = Case().stream(world)
        usual = stream.sampler
        stream.sampler = Forgetful(usual.source, usual.rows, usual.order, usual.schedule)
        return stream

    with pytest.raises(AssertionError, match="cut after 1 steps"):
        assert_resumes_exactly(make)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_parts_of_ranks_are_alike_in_number_and_together_the_batch(data: st.DataObject) -> None:
    case = drawn_case(np.random.default_rng(data.draw(st.integers(0, 10**9))))
    num_ranks = data.draw(st.integers(1, 6))
    micro = case.micro_batch_size or case.batch_size
    ranks = [list(case.stream(World(rank, num_ranks)).steps()) for rank in range(num_ranks)]
    for steps in zip(*ranks, strict=True):
        sizes = [[len(batch.rows_B) for batch in step.batches] for step in steps]
        assert len({len(parts) for parts in sizes}) == 1, "as many micro-batches on every rank"
        assert max(max(parts) for parts in sizes) <= micro
        assert min(min(parts) for parts in sizes) >= 1
        if case.tail == "pad" and case.batch_size % (num_ranks * micro) == 0:
            assert {size for parts in sizes for size in parts} == {micro}, "one shape for all"


def test_a_stream_goes_to_another_process_as_it_is() -> None:
    for mode in ("global", "window", "weighted"):
        case = Case(mode=mode, micro_batch_size=2)
        sent = pickle.loads(pickle.dumps(case.stream()))
        assert sent.sampler.fingerprint == case.stream().sampler.fingerprint
        assert steps_seen(lambda _, sent=sent: sent) == steps_seen(case.stream)


def test_an_examples_seed_depends_on_seed_epoch_and_row_alone() -> None:
    def seeds_of(case: Case, num_ranks: int) -> dict[tuple[int, int], int]:
        found: dict[tuple[int, int], int] = {}
        for rank in range(num_ranks):
            before = 0
            for step in replace(case, num_epochs=2).stream(World(rank, num_ranks)).steps():
                for batch in step.batches:
                    rows = batch.rows_B[batch.weights_B > 0]
                    for row, seed in zip(rows.tolist(), batch.seeds_B.tolist(), strict=False):
                        epoch = int((row, 0) in found) if num_ranks == 1 else before
                        found[row, epoch] = seed
                before = step.after.epoch
        return found

    case = Case(num_rows=40, batch_size=8)
    whole = seeds_of(case, 1)
    assert len(set(whole.values())) == 2 * case.num_rows
    others = (replace(case, micro_batch_size=3), replace(case, batch_size=20, tail="pad"))
    for other, num_ranks in ((others[0], 2), (others[1], 1), (others[0], 4)):
        assert seeds_of(other, num_ranks) == whole
    assert not set(seeds_of(replace(case, seed=1), 1).values()) & set(whole.values())


def test_a_batch_sorted_by_length_gives_ranks_similar_ones() -> None:
    case = Case(num_rows=700, batch_size=70, micro_batch_size=5, sorts_lengths=True)
    ranks = [list(case.stream(World(rank, 2)).steps()) for rank in range(2)]
    for first, second in zip(*ranks, strict=True):
        for one, other in zip(first.batches, second.batches, strict=True):
            lengths = np.concatenate([one.rows_B, other.rows_B]) % 7
            assert lengths.max() - lengths.min() <= 2, "of 0 to 6"
    assert steps_seen(case.stream, 2) == steps_seen(replace(case, sorts_lengths=False).stream, 1)


def test_a_cursor_of_another_stream_is_refused() -> None:
    case = Case()
    *_, step = case.stream().steps()
    others = [
        replace(case, seed=1),
        replace(case, mode="window"),
        replace(case, every=2),
        replace(case, num_rows=41),
    ]
    for other in others:
        with pytest.raises(RecipeMismatch, match="there.*now"):
            other.stream().sampler.place(step.after)
    assert case.stream().sampler.place(Cursor.from_json(step.after.to_json())) == Place(2, 0)


def test_a_batch_size_may_change_in_the_middle() -> None:
    case = Case(num_rows=50, batch_size=8, num_epochs=1)
    steps = case.stream().steps()
    first = [next(steps) for _ in range(3)]
    other = replace(case, batch_size=5).stream()
    rest = [*other.steps(other.sampler.place(first[-1].after))]
    rows = [row for step in [*first, *rest] for batch in step.batches for row in rows_of(batch)]
    assert sorted(rows) == list(range(50))


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_read_ahead_so_far_and_end_with_their_consumer(num_threads: int) -> None:
    source = Numbers(10**6)
    schedule = Schedule(10**6, 64, 1)
    before = threading.active_count()
    stream = Stream(source, GlobalOrder(10**6, 0), schedule, collate, num_threads=num_threads)
    steps = stream.steps()
    next(steps)
    until(lambda: source.reads == 1 + num_threads)
    time.sleep(0.05)
    assert source.reads == 1 + num_threads, "and no further"
    steps.close()
    until(lambda: threading.active_count() == before)


def test_an_error_of_a_thread_comes_out_of_the_stream() -> None:
    class Broken(Numbers):
        def read(self, rows: Indices) -> Indices:
            raise OSError("the disk is gone")

    stream = Stream(Broken(9), GlobalOrder(9, 0), Schedule(9, 2, 1), collate, num_threads=2)
    with pytest.raises(OSError, match="the disk is gone"):
        list(stream.steps())


def test_a_consumer_knows_how_long_it_waited() -> None:
    slow = Stream(
        Numbers(64, delay_s=0.05), GlobalOrder(64, 0), Schedule(64, 64, 3), collate, num_threads=0
    )
    steps = list(slow.steps())
    assert sum(step.waited_s for step in steps) >= 0.1
    assert sum(step.read_s for step in steps) >= 0.1
    assert all(0 < step.collate_s < 0.05 for step in steps)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_collating_is_waited_for(num_threads: int) -> None:
    def slow(chunk: Any, piece: Piece) -> Any:
        time.sleep(0.05)
        return collate(chunk, piece)

    stream = Stream(
        Numbers(64), GlobalOrder(64, 0), Schedule(64, 16, 1), slow, num_threads=num_threads
    )
    assert all(step.waited_s >= 0.05 for step in stream.steps())


def test_an_example_that_is_drawn_again_has_another_seed() -> None:
    stream = Stream(
        Numbers(64), WeightedOrder(np.ones(64), 0), Schedule(64, 16, 2), lambda _, piece: piece
    )
    seeds = [seed for step in stream.steps() for piece in step.batches for seed in piece.seeds]
    assert len({int(seed) for seed in seeds}) == 128


@pytest.mark.parametrize(("rank", "num_ranks"), [(-1, 1), (1, 1), (0, 0)])
def test_ranks_that_cannot_be(rank: int, num_ranks: int) -> None:
    with pytest.raises(ValueError, match="is none of"):
        World(rank, num_ranks)


def test_schedules_that_cannot_be() -> None:
    with pytest.raises(InputError, match="leave nothing of 3 examples"):
        Schedule(3, 4, 1, "drop")
    for wrong in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="needs examples"):
            Schedule(*wrong, 1)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_steps_are_where_arithmetic_says(data: st.DataObject) -> None:
    case = drawn_case(np.random.default_rng(data.draw(st.integers(0, 10**9))))
    schedule = Schedule(case.num_examples, case.batch_size, case.num_epochs, case.tail)
    places = [Place(0, 0), *(step.after for step in schedule.steps_from(Place(0, 0)))]
    assert len(places) - 1 == schedule.num_steps
    for step, place in enumerate(places):
        settled = schedule.step_at(schedule.place_of(step))
        assert settled == schedule.step_at(place)
