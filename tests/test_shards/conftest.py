"""What the tests of shards share: the layout of an empty run, and small committed sets in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shards.atomic import Attempt
from shards.commit import CommitRecord, StageLog, Written, ids_sha256
from shards.layout import Layout

CommitShard = Callable[..., CommitRecord]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "run")


@pytest.fixture
def commit_shard(layout: Layout) -> CommitShard:
    """Commit one shard of one file with the given content."""

    def commit(shard: int, content: bytes = b"content", stage: str = "shard") -> CommitRecord:
        log = StageLog(layout, stage, "default")
        with Attempt(layout.partial, "test") as attempt:
            attempt.path("data").write_bytes(content)
            tar = Written.of(attempt, "data")
            file = tar.publish(layout.root, layout.audio_tar(shard, tar.sha256))
        record = CommitRecord(
            stage=stage,
            name="default",
            shard=shard,
            fingerprint="f" * 64,
            counts={"clips": 3, "ok": 2},
            ids_sha256=ids_sha256(["a", "b", "c"]),
            files=(file,),
            detail={"reasons": {"silent": 1}},
        )
        return log.commit(record)

    return commit
