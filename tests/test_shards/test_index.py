"""The index of a shard: what was written, read back in plan order."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from configs.errors import IntegrityError
from shards.commit import CommitRecord, FileRecord
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
        row("z", decoder="soundfile", source_rate_hz=44_100, source_samples=66_150),
        row(
            "a", status=QUARANTINED, reason="silent", detail="peak 0", row_start=None, num_frames=0
        ),
        row("m", row_start=5, labels=[]),
    ]
    path = tmp_path / "part.parquet"
    write_index(path, rows)
    table = read_index(path)
    assert table.schema.equals(INDEX_SCHEMA)
    assert table.to_pylist() == rows
    assert decoded(table).column("id").to_pylist() == ["z", "m"]
    assert read_index(path, ["reason"]).to_pydict() == {"reason": [None, "silent", None]}


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_index(tmp_path / name, [row("x"), row("y")])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_shard_may_have_no_row(tmp_path: Path) -> None:
    write_index(tmp_path / "part", [])
    assert len(decoded(read_index(tmp_path / "part"))) == 0


def test_an_altered_index_is_refused(layout: Layout, tmp_path: Path) -> None:
    path = layout.root / "index/part-000000.parquet"
    path.parent.mkdir(parents=True)
    write_index(path, [])
    data = path.read_bytes()
    file = FileRecord("index/part-000000.parquet", len(data), hashlib.sha256(data).hexdigest())
    record = CommitRecord("shard", "default", 0, "f", {}, "", (file,))
    assert read_shard_index(layout, record).num_rows == 0
    for altered in (data[:-5], bytes(len(data))):
        path.write_bytes(altered)
        with pytest.raises(IntegrityError, match="part-000000.parquet"):
            read_shard_index(layout, record)
