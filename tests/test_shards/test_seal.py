"""A reader opens a seal: every record as it was sealed, every file in its full size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import IntegrityError, NotMadeYet
from shards.commit import CommitRecord, StageLog
from shards.layout import Layout
from shards.seal import Seal, check_size, find_seal, open_seal, write_seal

CommitShard = Callable[..., CommitRecord]


@pytest.fixture
def log(layout: Layout) -> StageLog:
    return StageLog(layout, "shard", "default")


@pytest.fixture
def records(commit_shard: CommitShard) -> list[CommitRecord]:
    return [commit_shard(shard, b"bytes of %d" % shard) for shard in range(3)]


def reopen(log: StageLog) -> Seal:
    return open_seal(log.layout, log.stage, log.name)


def test_a_seal_gives_the_records_back_in_order(log: StageLog, records: list[CommitRecord]) -> None:
    path = write_seal(log, records, {"index": records[0].files[0]})
    seal = reopen(log)
    assert seal.records == tuple(records)
    assert (seal.total("clips"), seal.total("ok"), seal.total("quarantined")) == (9, 6, 0)
    assert seal.shared_file("index").read_bytes() == b"bytes of 0"
    assert seal.recipe_fingerprint == records[0].fingerprint
    assert seal.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"shard-{seal.fingerprint[:12]}.json"


def test_sealing_again_gives_the_same_seal(log: StageLog, records: list[CommitRecord]) -> None:
    assert write_seal(log, records) == write_seal(log, records)
    assert len(list(log.layout.seals.iterdir())) == 1


def test_nothing_is_open_before_the_seal(log: StageLog, records: list[CommitRecord]) -> None:
    with pytest.raises(NotMadeYet, match=r"python -m pipeline shard"):
        reopen(log)
    write_seal(log, records)
    assert find_seal(log.layout, "shard", "other") is None
    assert find_seal(log.layout, "tokenize", "default") is None
    with pytest.raises(NotMadeYet, match=r"no finished tokenize \(fold1\)"):
        open_seal(log.layout, "tokenize", "fold1")


def test_a_seal_is_found_by_its_recipe(log: StageLog, records: list[CommitRecord]) -> None:
    path = write_seal(log, records)
    assert find_seal(log.layout, "shard", "default") == path


def test_an_empty_set_can_be_sealed(log: StageLog) -> None:
    write_seal(log, [])
    assert reopen(log).total("clips") == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "said"), [(Path.unlink, "is missing"), (cut, r"has 9 bytes, not 10")]
)
def test_a_missing_or_truncated_file_is_refused(
    harm: Callable[[Path], None], said: str, log: StageLog, records: list[CommitRecord]
) -> None:
    (file,) = records[1].files
    write_seal(log, records, {"index": file})
    harm(log.layout.root / file.path)
    with pytest.raises(IntegrityError, match=said):
        reopen(log).shared_file("index")
    with pytest.raises(IntegrityError, match=said):
        check_size(log.layout.root, file)
    with pytest.raises(IntegrityError, match=said):
        write_seal(log, records)


def swap_shards(path: Path) -> None:
    other = path.with_name("000002.json").read_bytes()
    path.write_bytes(other)


def recount(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"clips":3', b'"clips":4'))


@pytest.mark.parametrize("harm", [Path.unlink, cut, recount, swap_shards])
def test_an_altered_record_is_refused(
    harm: Callable[[Path], None], log: StageLog, records: list[CommitRecord]
) -> None:
    write_seal(log, records)
    harm(log.path(1))
    seal = reopen(log)
    with pytest.raises(IntegrityError, match=r"000001\.json is not the record that was sealed"):
        _ = seal.records


def drop_a_commit(path: Path) -> None:
    tree = json.loads(path.read_bytes())
    tree["commits"].pop()
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize("harm", [cut, drop_a_commit], ids=["cut", "drop_a_commit"])
def test_an_altered_seal_is_refused(
    harm: Callable[[Path], None], log: StageLog, records: list[CommitRecord]
) -> None:
    harm(write_seal(log, records))
    with pytest.raises(IntegrityError):
        reopen(log)


def test_a_truncated_seal_is_refused(log: StageLog, records: list[CommitRecord]) -> None:
    path = write_seal(log, records)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(IntegrityError, match=path.name):
        reopen(log)
