"""A clip that kills the worker which reads it, in the real stage: one row of the index."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.events import read_lines
from shards.index import OK
from shards.layout import Layout
from tests.commands import run
from tests.torture.job import index_of, small_job
from tests.torture.trials import tree_hash

pytestmark = pytest.mark.slow

CLIPS, SHARDS = 36, 6


def test_a_clip_that_kills_its_worker_becomes_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_job(tmp_path, CLIPS, SHARDS)
    assert run("pipeline", "shard", config, f"run={tmp_path / 'inline'}").returncode == 0
    ids = index_of(Layout(tmp_path / "inline")).column("id").to_pylist()
    poison = ids[len(ids) // 2]
    monkeypatch.setenv("POISON", poison)
    preload = "cluster.dask.distributed.worker.preload=[tests.fakes.poison]"
    words = [preload, "cluster.kind=local", "cluster.workers=2", "quarantine.max_share=0.5"]
    trees = set()
    for name in ("first", "second"):
        done = run("pipeline", "shard", config, f"run={tmp_path / name}", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 kills_worker" in done.stdout
        trees.add(tree_hash(tmp_path / name))
    assert len(trees) == 1
    rows = index_of(Layout(tmp_path / "first")).to_pylist()
    assert sorted(row["id"] for row in rows) == sorted(ids)
    refused = [row for row in rows if row["status"] != OK]
    assert [(row["id"], row["reason"]) for row in refused] == [(poison, "kills_worker")]
    events = read_lines(tmp_path / "first/events.jsonl")
    assert [event["pieces"] for event in events if event.get("event") == "isolated"] == [[poison]]
