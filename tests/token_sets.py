"""Small token sets of known clips, in several shards of several blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.atomic import Attempt
from shards.commit import CommitRecord, StageLog, Written
from shards.layout import Layout
from shards.seal import write_seal
from shards.stream.tokens import TokenSource
from shards.tokens import STAGE, Block, index_table, write_index, write_token_tar

PER_BLOCK = 3  # small blocks: what matters is that there are several
BLOCKS_PER_SHARD = 4


@dataclass(frozen=True)
class Clip:
    key: str
    tokens_TQ: npt.NDArray[np.uint16]
    labels: Sequence[int]


def block_of(number: int, clips: Sequence[Clip]) -> Block:
    return Block(
        number=number,
        tokens_SQ=np.concatenate([clip.tokens_TQ for clip in clips]),
        keys=[clip.key for clip in clips],
        lengths=np.array([len(clip.tokens_TQ) for clip in clips], dtype=np.int32),
        labels=[clip.labels for clip in clips],
    )


def write_shard(layout: Layout, shard: int, clips: Sequence[Clip]) -> CommitRecord:
    starts = range(0, len(clips), PER_BLOCK)
    blocks = [
        block_of(shard * BLOCKS_PER_SHARD + number, clips[start : start + PER_BLOCK])
        for number, start in enumerate(starts)
    ]
    with Attempt(layout.partial, "tokens") as attempt:
        arrays = write_token_tar(attempt.path("tokens.tar"), blocks)
        tar = Written.of(attempt, "tokens.tar")
        file = tar.publish(layout.root, layout.token_tar("default", shard, tar.sha256))
    counts = {"clips": len(clips)}
    record = CommitRecord(STAGE, "default", shard, "f", counts, "", (file,), {"arrays": arrays})
    return StageLog(layout, STAGE, "default").commit(record)


def seal_set(layout: Layout, records: Sequence[CommitRecord]) -> None:
    with Attempt(layout.partial, "index") as attempt:
        write_index(attempt.path("index"), index_table(records))
        index = Written.of(attempt, "index")
        file = index.publish(layout.root, layout.token_index("default", index.sha256))
    write_seal(StageLog(layout, STAGE, "default"), records, {"index": file})


def token_set(root: Path, shards: Sequence[Sequence[Clip]]) -> Layout:
    layout = Layout(root)
    seal_set(layout, [write_shard(layout, shard, clips) for shard, clips in enumerate(shards)])
    return layout


def clips_of(seed: int, count: int, num_codebooks: int = 1, shortest: int = 0) -> list[Clip]:
    generator = np.random.default_rng(seed)
    return [
        Clip(
            f"clip{seed}-{number}",
            generator.integers(0, 65_536, (length, num_codebooks), dtype=np.uint16),
            list(range(number % 3)),
        )
        for number, length in enumerate(generator.integers(shortest, 9, count))
    ]


def assert_holds(source: TokenSource, clips: Sequence[Clip]) -> None:
    rows = source.all_rows
    assert source.num_rows == len(clips)
    assert source.keys(rows) == [clip.key for clip in clips]
    assert source.lengths(rows).tolist() == [len(clip.tokens_TQ) for clip in clips]
    labels, starts = source.labels(rows)
    read = [labels[a:b].tolist() for a, b in pairwise(starts)]
    assert read == [list(clip.labels) for clip in clips]
    for clip, tokens_TQ in zip(clips, source.read(rows).clips(), strict=True):
        assert tokens_TQ.dtype == np.uint16
        np.testing.assert_array_equal(tokens_TQ, clip.tokens_TQ)
