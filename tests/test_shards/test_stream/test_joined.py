"""Several token sets as one: every row is what it is in its own set, and mixtures resume."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from configs.errors import InputError
from configs.schema import Config
from shards.codebook import TENSORS, Codebook, codebook_file
from shards.layout import Layout
from shards.stream.joined import JoinedSource, open_joined
from shards.stream.order import GlobalOrder, MixedOrder
from shards.stream.proof import assert_resumes_exactly, steps_seen
from shards.stream.schedule import Schedule, World
from shards.stream.stream import Stream
from shards.stream.tokens import TokenBatch, TokenChunk, open_tokens, token_batch
from tests.token_sets import Clip, clips_of, token_set

SETS = (clips_of(1, 23, shortest=1), clips_of(2, 9, shortest=1), clips_of(3, 14, shortest=1))
NUMBERS = ([0, 1, 2], [5, 0, 1], [2, 1, 7])  # of the classes of every set, jointly


@pytest.fixture
def joined(tmp_path: Path) -> JoinedSource:
    sources = [
        open_tokens(token_set(tmp_path / f"set{number}", [clips[:7], clips[7:]]), "default")
        for number, clips in enumerate(SETS)
    ]
    return JoinedSource(sources, [np.array(numbers, dtype=np.int16) for numbers in NUMBERS])


def all_clips() -> list[tuple[Clip, list[int]]]:
    """With the joint numbers of their labels."""
    return [
        (clip, [numbers[label] for label in clip.labels])
        for clips, numbers in zip(SETS, NUMBERS, strict=True)
        for clip in clips
    ]


def assert_holds(chunk: TokenChunk, expected: list[tuple[Clip, list[int]]]) -> None:
    assert [key.decode() for key in chunk.keys_N.tolist()] == [clip.key for clip, _ in expected]
    starts = chunk.label_starts
    for row, (tokens_TQ, (clip, labels)) in enumerate(zip(chunk.clips(), expected, strict=True)):
        np.testing.assert_array_equal(tokens_TQ, clip.tokens_TQ)
        assert chunk.labels[starts[row] : starts[row + 1]].tolist() == labels


def test_every_row_is_what_it_is_in_its_own_set(joined: JoinedSource) -> None:
    clips, rng = all_clips(), np.random.default_rng(0)
    assert joined.num_rows == len(clips) == joined.unit_sizes.sum()
    assert_holds(joined.read(joined.all_rows), clips)
    for size in (1, 2, 30):
        rows = rng.integers(0, joined.num_rows, size)
        expected = [clips[row] for row in rows]
        assert_holds(joined.read(rows), expected)
        assert joined.keys(rows) == [clip.key for clip, _ in expected]
        assert joined.lengths(rows).tolist() == [len(clip.tokens_TQ) for clip, _ in expected]
        labels, starts = joined.labels(rows)
        assert labels.tolist() == [label for _, own in expected for label in own]
        assert np.diff(starts).tolist() == [len(own) for _, own in expected]


def mixture(joined: JoinedSource, world: World | None = None) -> Stream[TokenChunk, TokenBatch]:
    parts = [GlobalOrder(count, seed) for seed, count in enumerate(joined.counts)]
    order = MixedOrder(parts, (0.5, 0.3, 0.2))
    schedule = Schedule(order.num_positions, 8, 4)
    collate = partial(token_batch, pad_id=65_535)
    return Stream(joined, order, schedule, collate, world=world, micro_batch_size=3)


def test_a_mixture_keeps_its_shares_and_resumes(joined: JoinedSource) -> None:
    make = partial(mixture, joined)
    seen = assert_resumes_exactly(make, cuts=range(0, 23, 5), num_ranks=(1, 2), num_workers=(1, 2))
    rows = np.concatenate([rows for rows, _ in seen])
    sets = np.searchsorted(np.cumsum(joined.counts), rows, side="right")
    shares = np.bincount(sets) / len(sets)
    np.testing.assert_allclose(shares, (0.5, 0.3, 0.2), atol=0.02)
    assert seen == steps_seen(make)


def test_runs_of_one_codebook_are_joined_by_the_ids_of_their_classes(
    finished: Config, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished.run, copy)
    source, classes = open_joined([finished.run, copy], "default")
    alone = open_tokens(Layout(finished.run), "default")
    assert len(classes) == len({own.id for own in classes})
    twice = source.read(np.array([3, 3 + alone.num_rows]))
    assert source.num_rows == 2 * alone.num_rows
    assert twice.clips()[0].tolist() == twice.clips()[1].tolist()
    ends = twice.label_starts
    assert twice.labels[: ends[1]].tolist() == twice.labels[ends[1] :].tolist()


def test_tokens_of_other_codebooks_do_not_mix(
    finished: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished.run, copy)
    found = {finished.run: "one", copy: "another"}

    def opened(layout: Layout, name: str) -> tuple[Codebook | None, str]:
        assert codebook_file(layout, name, TENSORS).exists()
        return None, found[layout.root]

    monkeypatch.setattr("shards.stream.joined.open_codebook", opened)
    with pytest.raises(InputError, match=f"{finished.run} and {copy}: their codebooks default"):
        open_joined([finished.run, copy], "default")
