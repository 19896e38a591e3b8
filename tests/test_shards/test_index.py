"""The index of a shard: what was written, read back in plan order."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.errors import IntegrityError
from shards.commit import CommitRecord, publish_bytes
from shards.index import (
    INDEX_SCHEMA,
    OK,
    QUARANTINED,
    decoded,
    read_index,
    read_shard_index,
    write_index,
)
from shards.layout import Layout


def row(clip_id: str, **over: object) -> dict[str, object]:
    blank: dict[str, object] = dict.fromkeys(INDEX_SCHEMA.names)
    filled = {"id": clip_id, "key": clip_id, "labels": [1, 2], "set": "train", "split": "train"}
    filled |= {"targets": [0.5]}
    rest = {"fold": 1, "status": OK, "row_start": 0, "num_frames": 5, "source": f"{clip_id}.wav"}
    return blank | filled | rest | over


def test_rows_round_trip_in_order(tmp_path: Path) -> None:
    rows = [
        row("z", decoder="libsndfile", source_rate_hz=44_100, source_samples=66_150),
        row(
            "a", status=QUARANTINED, reason="silent", detail="peak 0", row_start=None, num_frames=0
        ),
        row("m", row_start=5, labels=[]),
    ]
    path = tmp_path / "part.parquet"
    write_index(path, rows)
    table = pq.read_table(path)
    assert table.schema.equals(INDEX_SCHEMA)
    assert table.to_pylist() == rows
    assert decoded(table).column("id").to_pylist() == ["z", "m"]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_index(tmp_path / name, [row("x"), row("y")])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_shard_may_have_no_row(tmp_path: Path) -> None:
    write_index(tmp_path / "part", [])
    assert len(decoded(pq.read_table(tmp_path / "part"))) == 0


def record_of(layout: Layout, shard: int, rows: list[dict[str, object]]) -> CommitRecord:
    """The record of a shard that holds nothing but its index."""
    path = layout.index_part(shard, "0" * 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_index(path, rows)
    file = publish_bytes(layout.partial, layout.root, path, path.read_bytes())
    return CommitRecord("shard", "default", shard, "f", {}, "", (file,))


def test_shards_are_read_in_order_and_only_those_on_record(layout: Layout) -> None:
    silent = row("b", status=QUARANTINED, reason="silent", detail="peak 0")
    records = [record_of(layout, 0, [row("z"), silent]), record_of(layout, 1, [row("a")])]
    record_of(layout, 2, [row("of a killed attempt")])
    table = read_index(layout, records, ["id", "reason"])
    assert table.to_pydict() == {"id": ["z", "b", "a"], "reason": [None, "silent", None]}
    assert read_index(layout, records).schema.equals(INDEX_SCHEMA)


def test_an_altered_index_is_refused(layout: Layout) -> None:
    record = record_of(layout, 0, [])
    path = layout.root / record.files[0].path
    data = path.read_bytes()
    assert read_shard_index(layout, record).num_rows == 0
    for altered in (data[:-5], bytes(len(data))):
        path.write_bytes(altered)
        with pytest.raises(IntegrityError, match="part-000000-"):
            read_shard_index(layout, record)
