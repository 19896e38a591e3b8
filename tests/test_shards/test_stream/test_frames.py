"""Frames by row: the same as plain reading gives, however they are asked for, from few reads."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.data import DataConfig
from configs.schema import Config
from shards.frames import CHUNK_ROWS, read_shard_frames
from shards.index import decoded, open_shards, read_shard_index
from shards.layout import Layout
from shards.stream.choice import order_of
from shards.stream.chunks import FrameChunks
from shards.stream.frames import FrameSource, frame_batch, open_frames
from shards.stream.order import GlobalOrder, Order, WindowOrder
from shards.stream.proof import assert_resumes_exactly
from shards.stream.schedule import Piece, Schedule, World
from shards.stream.stream import Stream
from shards.stream.tokens import open_tokens
from tests.frame_sets import (
    NUM_MELS,
    Clip,
    Made,
    assert_holds,
    clips_of,
    made_run,
    noise,
    source_of,
)

CHUNK_BYTES = CHUNK_ROWS * NUM_MELS * 2
collate = partial(frame_batch, pad_value=-100.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Shards of about 5, 1, 0, 0 and 8 chunks; one clip is longer than two chunks, one empty."""
    random = np.random.default_rng(0)
    long = Clip("long", noise(random, 2 * CHUNK_ROWS + 100), [1])
    shards = [
        [*clips_of(1, 20), long, *clips_of(2, 3)],
        [*clips_of(3, 4), Clip("empty", noise(random, 0), [0])],
        [],
        [Clip("refused", None)],
        [*clips_of(4, 40)],
    ]
    return made_run(tmp_path_factory.mktemp("made") / "run", shards)


def test_all_rows_are_the_decoded_clips_in_order(made: Made) -> None:
    source = source_of(made)
    assert (source.num_rows, source.num_mels) == (len(made.clips), NUM_MELS)
    assert source.keys(source.all_rows) == [clip.key for clip in made.clips]
    assert source.lengths(source.all_rows).tolist() == [clip.num_frames for clip in made.clips]
    assert_holds(source.read(source.all_rows), list(made.clips))


@given(rows=st.lists(st.integers(0, 54), max_size=30), cache_chunks=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_any_rows_in_any_order_are_what_plain_reading_gives(
    rows: list[int], cache_chunks: int, made: Made
) -> None:
    source = source_of(made, cache_chunks * CHUNK_BYTES)
    chunk = source.read(np.array(rows, dtype=np.int64))
    assert_holds(chunk, [made.clips[row] for row in rows])
    assert source.chunks.num_bytes <= cache_chunks * CHUNK_BYTES


def plain(layout: Layout) -> Iterator[tuple[str, npt.NDArray[np.float16]]]:
    """Key and frames of every decoded clip, through zarr."""
    for record in open_shards(layout).records:
        frames_TM = read_shard_frames(layout, record)
        for row in decoded(read_shard_index(layout, record)).to_pylist():
            yield row["key"], frames_TM[row["row_start"] : row["row_start"] + row["num_frames"]]


def test_a_row_is_the_same_clip_as_in_tokens_and_its_frames_are_those_of_zarr(
    finished: Config,
) -> None:
    layout = Layout(finished.run)
    source, tokens = open_frames(layout), open_tokens(layout, "default")
    rows = np.random.default_rng(0).permutation(source.num_rows)
    assert source.keys(rows) == tokens.keys(rows)
    assert source.lengths(rows).tolist() == tokens.lengths(rows).tolist()
    assert [part.tolist() for part in source.labels(rows)] == [
        part.tolist() for part in tokens.labels(rows)
    ]
    expected = list(plain(layout))
    for row, frames_TM in zip(rows.tolist(), source.read(rows).clips(), strict=True):
        assert source.keys(np.array([row])) == [expected[row][0]]
        np.testing.assert_array_equal(frames_TM, expected[row][1])


@given(
    rows=st.lists(st.integers(0, 54), min_size=1, max_size=12),
    width=st.none() | st.integers(1, 4000),
    dtype=st.sampled_from([np.float16, np.float32]),
)
@settings(max_examples=25, deadline=None)
def test_a_batch_is_padded_frames_with_keys_targets_weights_and_seeds(
    rows: list[int], width: int | None, dtype: type[np.float16], made: Made
) -> None:
    first, num = len(rows) // 3, len(rows) - len(rows) // 3
    seeds = np.arange(num, dtype=np.uint64)
    piece = Piece(first, len(rows), num - 1, seeds)
    chunk = source_of(made).read(np.array(rows))
    batch = frame_batch(chunk, piece, pad_value=-7.0, width=width, dtype=dtype)
    clips = [made.clips[row] for row in rows[first:]]
    longest = max(width or 0, *(clip.num_frames for clip in clips), 0)
    assert batch.frames_BTM.shape == (num, longest, NUM_MELS)
    assert batch.frames_BTM.dtype == dtype
    for frames_TM, clip in zip(batch.frames_BTM, clips, strict=True):
        np.testing.assert_array_equal(frames_TM[: clip.num_frames], clip.frames_TM)
        assert (frames_TM[clip.num_frames :] == -7.0).all()
    assert batch.keys == [clip.key for clip in clips]
    assert batch.rows_B.tolist() == rows[first:]
    labels = [batch.labels[a:b].tolist() for a, b in pairwise(batch.label_starts)]
    assert labels == [list(clip.labels) for clip in clips]
    assert batch.weights_B.tolist() == [1.0] * (num - 1) + [0.0]
    assert batch.seeds_B.tolist() == seeds.tolist()
    assert [np.flatnonzero(row).tolist() for row in batch.targets(3)] == [
        list(clip.labels) for clip in clips
    ]


# --- streams, and how much they read -------------------------------------------------------------


def stream_of(
    source: FrameSource, order: Order, world: World | None = None, num_threads: int = 0
) -> Stream[Any, Any]:
    schedule = Schedule(source.num_rows, 6, 2)
    return Stream(source, order, schedule, collate, world=world, num_threads=num_threads)


def orders(source: FrameSource) -> dict[str, Order]:
    return {
        "global": GlobalOrder(source.num_rows, 3),
        "window": WindowOrder(source.unit_sizes, 2, 3),
    }


@pytest.mark.parametrize("mode", ["global", "window"])
def test_streams_of_frames_resume_exactly(mode: str, made: Made) -> None:
    source = source_of(made, 4 * CHUNK_BYTES, unit_chunks=1)
    order = orders(source)[mode]
    seen = assert_resumes_exactly(
        lambda world: stream_of(source, order, world),
        cuts=range(0, 18, 5),
        num_ranks=(1, 2, 3),
        num_workers=(1, 2),
    )
    counts = Counter(row for rows, _ in seen for row in rows)
    assert counts == dict.fromkeys(range(len(made.clips)), 2)


@pytest.mark.parametrize("unit_chunks", [1, 3, 4])
def test_units_hold_the_clips_that_begin_in_their_chunks(unit_chunks: int, made: Made) -> None:
    source = source_of(made, unit_chunks=unit_chunks)
    expected = []
    for record in made.records:
        starts = decoded(read_shard_index(made.layout, record)).column("row_start").to_numpy()
        for unit in range(0, -(-record.counts["frames"] // CHUNK_ROWS), unit_chunks):
            chunks = starts // CHUNK_ROWS
            expected.append(int(((unit <= chunks) & (chunks < unit + unit_chunks)).sum()))
    assert source.unit_sizes.tolist() == expected
    assert sum(expected) == source.num_rows
    order = order_of(DataConfig(order="window", window_blocks=2), source, source.all_rows, 0, [])
    assert sorted(order.examples(0, source.all_rows)) == source.all_rows.tolist()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each chunk was read and decompressed."""
    counts, read, lock = Counter[int](), FrameChunks.read, threading.Lock()

    def counted(self: FrameChunks, chunk: int) -> Any:
        with lock:
            counts[chunk] += 1
        return read(self, chunk)

    monkeypatch.setattr(FrameChunks, "read", counted)
    return counts


@pytest.mark.parametrize("num_threads", [0, 3])
def test_where_the_cache_holds_all_every_chunk_is_read_once(
    num_threads: int, made: Made, reads: Counter[int]
) -> None:
    source = source_of(made)
    list(stream_of(source, GlobalOrder(source.num_rows, 0), num_threads=num_threads).steps())
    assert reads == dict.fromkeys(range(made.num_chunks), 1)
    assert source.chunks.num_bytes == sum(clip.num_frames for clip in made.clips) * NUM_MELS * 2


def test_without_a_cache_a_read_touches_every_chunk_once(made: Made, reads: Counter[int]) -> None:
    source = source_of(made, 0)
    source.read(np.random.default_rng(0).permutation(source.num_rows))
    assert reads == dict.fromkeys(range(made.num_chunks), 1)
    assert source.chunks.num_bytes == 0


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """About 90 chunks of about 27 clips."""
    shards = [clips_of(seed, 500, (200, 400)) for seed in range(6)]
    return made_run(tmp_path_factory.mktemp("many") / "run", shards)


@pytest.mark.parametrize(("unit_chunks", "most"), [(1, 2.0), (4, 1.32)])
def test_in_windows_every_chunk_is_read_about_once(
    unit_chunks: int, most: float, many: Made, reads: Counter[int]
) -> None:
    """The clip that lies across the end of a unit costs a second read of the next one's first."""
    source = source_of(many, 41 * CHUNK_BYTES, unit_chunks)
    source.rows_at_once = 64  # as few of them as of long clips
    assert source.window_units == 41 // (2 * (unit_chunks + 1))
    order = WindowOrder(source.unit_sizes, source.window_units, 0)
    bytes_seen = []
    schedule = Schedule(source.num_rows, 32, 1)
    for _ in Stream(source, order, schedule, collate, num_threads=1).steps():
        bytes_seen.append(source.chunks.num_bytes)
    assert set(reads) == set(range(many.num_chunks))
    assert 0 < max(bytes_seen) <= 41 * CHUNK_BYTES
    assert 1.02 * many.num_chunks < reads.total() <= most * many.num_chunks


def test_threads_share_a_small_cache(made: Made) -> None:
    source = source_of(made, 2 * CHUNK_BYTES)

    def ask(seed: int) -> int:
        rows = np.random.default_rng(seed).integers(source.num_rows, size=20)
        assert_holds(source.read(rows), [made.clips[row] for row in rows])
        return source.chunks.num_bytes

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(ask, range(40))) <= 2 * CHUNK_BYTES


def test_a_read_is_some_megabytes_however_long_the_clips_are(made: Made, many: Made) -> None:
    for run in (made, many):
        source = source_of(run)
        mean = np.mean([clip.num_frames for clip in run.clips]) * NUM_MELS * 2
        assert source.rows_at_once * mean == pytest.approx(16 * 2**20, rel=0.02)


def test_a_source_goes_to_another_process_without_what_it_holds(made: Made) -> None:
    source = source_of(made, 9 * CHUNK_BYTES, unit_chunks=2)
    source.read(source.all_rows)
    data = pickle.dumps(source)
    assert len(data) < 20_000
    sent = pickle.loads(data)
    assert (sent.fingerprint, sent.chunks.max_bytes) == ("f", 9 * CHUNK_BYTES)
    assert sent.unit_sizes.tolist() == source.unit_sizes.tolist()
    assert_holds(sent.read(sent.all_rows), list(made.clips))
