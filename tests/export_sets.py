"""Token sets of made clips with an index beside them, as they are exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shards.atomic import Attempt
from shards.commit import CommitRecord, StageLog, Written
from shards.export import TokenSet
from shards.export_formats import Card
from shards.index import NAME, write_index
from shards.index import STAGE as SHARD
from shards.layout import Layout
from shards.plan import ClassName
from shards.seal import open_seal, write_seal
from shards.stream.files import LocalFiles
from shards.tokens import STAGE, index_table, read_token_index
from shards.tokens import write_index as write_token_index
from tests.token_sets import Clip, write_shard

CLASSES = (ClassName("/m/one", "one, and more"), ClassName("/m/two", "two"))


def row_of(clip: Clip) -> dict[str, Any]:
    """Of the index, as far as it has to be filled in."""
    named = {"id": f"{clip.key}.wav", "key": clip.key, "labels": clip.labels, "targets": [0.5]}
    empty = {"set": "", "num_frames": 1, "source": ""}
    return {**named, **empty, "split": "test", "fold": 3, "status": "ok"}


def committed(layout: Layout, shard: int, clips: Sequence[Clip]) -> tuple[CommitRecord, ...]:
    """The records of a shard's index and of its tokens."""
    with Attempt(layout.partial, "made") as attempt:
        write_index(attempt.path("index"), [row_of(clip) for clip in clips])
        written = Written.of(attempt, "index")
        index = written.publish(layout.root, layout.index_part(shard, written.sha256))
    record = CommitRecord(SHARD, NAME, shard, "f", {}, "", (index,))
    return StageLog(layout, SHARD, NAME).commit(record), write_shard(layout, shard, clips)


def exported_set(
    root: Path, shards: Sequence[Sequence[Clip]], num_codebooks: int, **over: Any
) -> TokenSet:
    """Shards with an index and tokens, sealed, as a set to export."""
    layout = Layout(root)
    records = [committed(layout, shard, clips) for shard, clips in enumerate(shards)]
    path = root / "index.arrow"
    write_token_index(path, index_table([tokens for _, tokens in records]))
    write_seal(StageLog(layout, STAGE, "default"), [tokens for _, tokens in records])
    seal = open_seal(layout, STAGE, "default")
    card: dict[str, Any] = {"task": "multilabel", "classes": CLASSES, **over}
    return TokenSet(
        seal,
        read_token_index(path),
        LocalFiles(root),
        Card("default", seal.fingerprint, "made", 65_536, num_codebooks, **card),
        {shard: index for shard, (index, _) in enumerate(records)},
    )
