"""Commit records: the first stands, another is refused, a damaged one is named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import DifferentBytes, IntegrityError, RecipeMismatch
from shards.atomic import sha256_file
from shards.commit import (
    CommitRecord,
    FileRecord,
    StageLog,
    canonical_json,
    differences,
    fingerprint,
    ids_sha256,
)
from shards.layout import Layout

CommitShard = Callable[..., CommitRecord]

NAMES = st.text(max_size=5)
FILES = st.builds(FileRecord, path=NAMES, bytes=st.integers(0), sha256=NAMES)
RECORDS = st.builds(
    CommitRecord,
    stage=NAMES,
    name=NAMES,
    shard=st.integers(0, 999_999),
    fingerprint=NAMES,
    counts=st.dictionaries(NAMES, st.integers()),
    ids_sha256=NAMES,
    files=st.lists(FILES, max_size=3).map(tuple),
    detail=st.dictionaries(NAMES, st.integers() | st.lists(NAMES, max_size=2), max_size=2),
)
SCALARS = st.integers() | st.booleans() | NAMES | st.none()
TREES = st.dictionaries(NAMES, SCALARS | st.dictionaries(NAMES, SCALARS, max_size=3), max_size=4)


@pytest.fixture
def log(layout: Layout) -> StageLog:
    return StageLog(layout, "shard", "default")


@given(RECORDS)
def test_records_round_trip(record: CommitRecord) -> None:
    assert CommitRecord.from_json(record.to_json()) == record


@given(TREES)
def test_the_fingerprint_ignores_the_order_of_keys(tree: dict[str, object]) -> None:
    backwards = dict(reversed(tree.items()))
    assert canonical_json(tree) == canonical_json(backwards)
    assert fingerprint(tree) == fingerprint(backwards)
    assert json.loads(canonical_json(tree)) == tree


@given(stored=TREES, asked=TREES)
def test_trees_differ_in_something_or_are_equal(
    stored: dict[str, object], asked: dict[str, object]
) -> None:
    absent_is_null = any(None in tree.values() for tree in (stored, asked))
    if not absent_is_null and not any(isinstance(v, dict) for v in (stored | asked).values()):
        assert (differences(stored, asked) == []) == (stored == asked)
    assert differences(stored, stored) == []


def test_the_hash_of_ids_knows_their_order() -> None:
    assert ids_sha256(["a", "b"]) != ids_sha256(["b", "a"]) != ids_sha256(["ab"])


def test_a_published_file_is_described_and_carries_its_hash(
    layout: Layout, commit_shard: CommitShard
) -> None:
    (file,) = commit_shard(7, b"some bytes").files
    path = layout.root / file.path
    assert (path.read_bytes(), file.bytes) == (b"some bytes", 10)
    assert file.sha256 == sha256_file(path)
    assert path.name == f"audio-000007-{file.sha256[:12]}.tar"
    assert file == commit_shard(7, b"some bytes").file("audio/")


def test_committed_shards_are_those_with_a_record(log: StageLog, commit_shard: CommitShard) -> None:
    assert (log.committed(), log.record(0)) == (set(), None)
    log.open({"format": 1})
    made = {shard: commit_shard(shard) for shard in (0, 5, 12)}
    assert log.committed() == {0, 5, 12}
    assert {shard: log.record(shard) for shard in made} == made
    assert log.record(1) is None
    assert not list(log.layout.partial.iterdir())


def test_the_same_record_again_changes_nothing(log: StageLog, commit_shard: CommitShard) -> None:
    first = commit_shard(3)
    before = log.path(3).stat().st_mtime_ns
    assert commit_shard(3) == first
    assert log.path(3).stat().st_mtime_ns == before


def test_other_bytes_are_refused_and_the_first_stand(
    log: StageLog, commit_shard: CommitShard
) -> None:
    first = commit_shard(3, b"one")
    with pytest.raises(DifferentBytes, match=r"000003\.json"):
        commit_shard(3, b"two")
    assert log.record(3) == first


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"{}", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"files": [{"path": 1}]}']
)
def test_a_damaged_record_is_named(damage: bytes, log: StageLog, commit_shard: CommitShard) -> None:
    commit_shard(3)
    log.path(3).write_bytes(damage)
    with pytest.raises(IntegrityError, match=r"000003\.json is damaged"):
        log.record(3)


def test_a_record_cut_anywhere_is_never_read(log: StageLog, commit_shard: CommitShard) -> None:
    data = commit_shard(3).to_json()
    for stop in range(0, len(data) - 1, 7):
        log.path(3).write_bytes(data[:stop])
        with pytest.raises(IntegrityError):
            log.record(3)


RECIPE = {"format": 1, "mel": {"n_mels": 64, "n_fft": 1024}, "sets": ["a", "b"]}


def test_the_order_of_a_recipe_means_nothing(log: StageLog) -> None:
    assert log.open(RECIPE) == log.open(dict(reversed(RECIPE.items()))) == fingerprint(RECIPE)


def test_a_recipe_under_which_nothing_was_made_gives_way(log: StageLog) -> None:
    """Or the advice of an error, as to lower k, could not be followed."""
    log.open(RECIPE)
    other = {**RECIPE, "format": 2}
    assert log.open(other) == fingerprint(other)
    log.check(other)
    with pytest.raises(RecipeMismatch):
        log.check(RECIPE)


def test_a_tuple_in_a_recipe_is_the_list_that_json_makes_of_it(log: StageLog) -> None:
    log.open(RECIPE)
    log.open({**RECIPE, "sets": ("a", "b")})


def test_another_recipe_is_refused_with_the_keys_that_differ(
    log: StageLog, commit_shard: CommitShard
) -> None:
    log.open(RECIPE)
    commit_shard(0)
    asked = {"format": 1, "mel": {"n_mels": 128, "n_fft": 1024}, "sets": ["a"], "new": True}
    with pytest.raises(RecipeMismatch) as raised:
        log.open(asked)
    lines = [line.strip() for line in str(raised.value).splitlines()]
    assert lines[0].endswith("shard default was made with other settings:")
    assert lines[1:-1] == [
        "mel.n_mels: 64 there, 128 now",
        "new: null there, true now",
        'sets: ["a", "b"] there, ["a"] now',
    ]
    assert "run=DIR" in lines[-1]
    assert log.open(RECIPE) == fingerprint(RECIPE)


def test_a_damaged_recipe_is_named(log: StageLog, commit_shard: CommitShard) -> None:
    log.open(RECIPE)
    commit_shard(0)
    path = log.directory / "recipe.json"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(IntegrityError, match=r"recipe\.json"):
        log.open(RECIPE)


def test_long_values_are_shortened_in_messages() -> None:
    (line,) = differences({"ids": "x" * 500}, {"ids": "y"})
    assert len(line) < 100
    assert line.endswith('... there, "y" now')


def test_records_cannot_change(commit_shard: CommitShard) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        commit_shard(0).shard = 1
