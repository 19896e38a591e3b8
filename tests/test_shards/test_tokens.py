"""Token shards: any ragged clips come back, by row, from memory-mapped tars."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import IntegrityError, NotMadeYet
from shards.commit import FileRecord
from shards.layout import Layout
from shards.seal import open_seal
from shards.stream.schedule import Piece
from shards.stream.tokens import TokenSource, open_tokens, token_batch
from shards.tokens import STAGE, read_token_index, write_index
from tests.token_sets import (
    BLOCKS_PER_SHARD,
    PER_BLOCK,
    Clip,
    assert_holds,
    clips_of,
    seal_set,
    token_set,
    write_shard,
)

KEYS = st.text("abcXYZ019_-~", min_size=1, max_size=12)


@given(data=st.data(), num_codebooks=st.integers(1, 3), num_shards=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_any_ragged_clips_round_trip(
    data: st.DataObject, num_codebooks: int, num_shards: int
) -> None:
    def clip(key: str, num_tokens: int, labels: list[int]) -> Clip:
        tokens = np.arange(num_tokens * num_codebooks).reshape(num_tokens, num_codebooks) * 7919
        return Clip(key, tokens.astype(np.uint16), labels)

    labels = st.lists(st.integers(0, 526), max_size=4)
    clips = st.builds(clip, KEYS, st.integers(0, 20), labels)
    shards = [data.draw(st.lists(clips, min_size=1, max_size=8)) for _ in range(num_shards)]
    with TemporaryDirectory() as directory:
        source = open_tokens(token_set(Path(directory), shards), "default")
        assert_holds(source, [clip for shard in shards for clip in shard])


@given(rows=st.lists(st.integers(0, 13), max_size=20))
@settings(max_examples=30, deadline=None)
def test_rows_may_be_asked_for_in_any_order(
    rows: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    clips = [*clips_of(1, 7), *clips_of(2, 7)]
    root = tmp_path_factory.getbasetemp() / "any-order"
    layout = Layout(root) if root.exists() else token_set(root, [clips[:7], clips[7:]])
    read = open_tokens(layout, "default").read(np.array(rows, dtype=np.int64)).clips()
    for row, tokens_TQ in zip(rows, read, strict=True):
        np.testing.assert_array_equal(tokens_TQ, clips[row].tokens_TQ)


def test_a_row_may_be_much_shorter_than_the_rest_of_its_tar(tmp_path: Path) -> None:
    """Rows are copied as windows of the longest one's width, here past the end of the file."""
    long = np.arange(60_000, dtype=np.uint16)[:, None]
    clips = [Clip("long", long, [0]), Clip("short", long[:2], [1]), Clip("empty", long[:0], [])]
    assert_holds(open_tokens(token_set(tmp_path, [clips, clips[1:]]), "default"), clips + clips[1:])


@given(
    rows=st.lists(st.integers(0, 13), min_size=1, max_size=20),
    num_real=st.integers(0, 20),
    width=st.none() | st.integers(1, 30),
    num_codebooks=st.integers(1, 2),
)
@settings(max_examples=50, deadline=None)
def test_a_batch_holds_padded_tokens_keys_targets_and_weights(
    rows: list[int],
    num_real: int,
    width: int | None,
    num_codebooks: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    clips = [*clips_of(1, 7, num_codebooks), *clips_of(2, 7, num_codebooks)]
    root = tmp_path_factory.getbasetemp() / f"batches{num_codebooks}"
    layout = Layout(root) if root.exists() else token_set(root, [clips[:7], clips[7:]])
    source = open_tokens(layout, "default")
    first, last = len(rows) // 3, len(rows)
    seeds = np.zeros(last - first, dtype=np.uint64)
    piece = Piece(first, last, min(num_real, last - first), seeds)
    batch = token_batch(source.read(np.array(rows)), piece, pad_id=70_000, width=width)
    asked = [clips[row] for row in rows[first:]]
    longest = max(width or 0, *(len(clip.tokens_TQ) for clip in asked))
    assert batch.tokens_BTQ.shape == (len(asked), longest, num_codebooks)
    for tokens_TQ, clip in zip(batch.tokens_BTQ, asked, strict=True):
        np.testing.assert_array_equal(tokens_TQ[: len(clip.tokens_TQ)], clip.tokens_TQ)
        assert (tokens_TQ[len(clip.tokens_TQ) :] == 70_000).all()
    assert batch.keys == [clip.key for clip in asked]
    assert batch.rows_B.tolist() == rows[first:]
    assert batch.lengths_B.tolist() == [len(clip.tokens_TQ) for clip in asked]
    found = [np.flatnonzero(row).tolist() for row in batch.targets(3)]
    assert found == [list(clip.labels) for clip in asked]
    assert batch.weights_B.tolist() == [1.0] * piece.num_real + [0.0] * (
        last - first - piece.num_real
    )


def test_a_shard_may_have_no_clip(tmp_path: Path) -> None:
    first, last = clips_of(1, 4), clips_of(2, 2)
    assert_holds(open_tokens(token_set(tmp_path, [first, [], last]), "default"), [*first, *last])


def test_a_partial_seal_is_a_set_of_its_own(layout: Layout) -> None:
    shards = [clips_of(seed, 4) for seed in range(4)]
    records = [write_shard(layout, shard, clips) for shard, clips in enumerate(shards)]
    seal_set(layout, [records[1], records[3]])
    assert_holds(open_tokens(layout, "default"), [*shards[1], *shards[3]])


def files_of(layout: Layout) -> dict[Path, bytes]:
    paths = [path for path in layout.root.rglob("*") if path.is_file()]
    return {path.relative_to(layout.root): path.read_bytes() for path in paths}


def test_the_same_clips_give_the_same_tree(tmp_path: Path) -> None:
    shards = [clips_of(1, 7), clips_of(2, 3)]
    first, second = (token_set(tmp_path / name, shards) for name in "ab")
    assert files_of(first) == files_of(second)


def test_tokens_before_the_seal_are_not_made_yet(layout: Layout) -> None:
    write_shard(layout, 0, clips_of(0, 3))
    with pytest.raises(NotMadeYet):
        open_tokens(layout, "default")


@pytest.mark.parametrize("column", ["tokens", "lengths", "keys", "labels", "counts"])
def test_a_damaged_column_is_refused_with_file_and_block(column: str, tmp_path: Path) -> None:
    layout = token_set(tmp_path, [clips_of(1, 7), clips_of(2, 7)])
    record = open_seal(layout, STAGE, "default").records[1]
    damaged = next(
        array
        for array in record.detail["arrays"]
        if array["column"] == column and array["block"] == BLOCKS_PER_SHARD + 1
    )
    path = layout.root / record.files[0].path
    data = bytearray(path.read_bytes())
    data[damaged["offset"] + damaged["bytes"] // 2] ^= 4
    path.write_bytes(data)
    source = open_tokens(layout, "default")
    source.read(np.arange(7))  # the other shard is sound
    with pytest.raises(IntegrityError, match=rf"{path.name}: block 5, {column} is damaged"):
        touch_everything(source)


def touch_everything(source: TokenSource) -> None:
    source.keys(source.all_rows)
    source.read(source.all_rows)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-512])


@pytest.mark.parametrize("harm", [Path.unlink, cut])
def test_a_missing_or_truncated_tar_is_refused(
    harm: Callable[[Path], None], tmp_path: Path
) -> None:
    layout = token_set(tmp_path, [clips_of(1, 4)])
    (tar,) = (layout.root / "tokens" / "default").glob("*.tar")
    harm(tar)
    with pytest.raises(IntegrityError, match=tar.name):
        touch_everything(open_tokens(layout, "default"))


def index_of(layout: Layout) -> tuple[FileRecord, Path]:
    file = open_seal(layout, STAGE, "default").shared["index"]
    return file, layout.root / file.path


def test_a_truncated_index_is_refused(tmp_path: Path) -> None:
    layout = token_set(tmp_path, [clips_of(1, 4)])
    cut(index_of(layout)[1])
    with pytest.raises(IntegrityError, match=r"index-.*\.arrow"):
        open_tokens(layout, "default")


def test_an_altered_index_is_refused(tmp_path: Path) -> None:
    layout = token_set(tmp_path, [clips_of(1, 4)])
    _, path = index_of(layout)
    data = bytearray(path.read_bytes())
    for position in range(0, len(data), max(1, len(data) // 40)):
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match=path.name):
            open_tokens(layout, "default")
        data[position] ^= 1


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset's own
def test_stock_webdataset_reads_the_blocks(tmp_path: Path) -> None:
    clips = clips_of(3, 5, num_codebooks=2)
    layout = token_set(tmp_path, [clips])
    (tar,) = (layout.root / "tokens" / "default").glob("*.tar")
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == ["b000000", "b000001"]
    for number, sample in enumerate(samples):
        inside = clips[number * PER_BLOCK : (number + 1) * PER_BLOCK]
        columns = {
            name: np.load(io.BytesIO(sample[f"{name}.npy"]), allow_pickle=False)
            for name in ("tokens", "lengths", "keys", "labels", "counts")
        }
        assert columns["keys"].tolist() == [clip.key.encode() for clip in inside]
        assert columns["tokens"].dtype == np.uint16
        expected = np.concatenate([clip.tokens_TQ for clip in inside])
        np.testing.assert_array_equal(columns["tokens"], expected)
        assert columns["lengths"].tolist() == [len(clip.tokens_TQ) for clip in inside]
        assert columns["counts"].sum() == len(columns["labels"])


def test_an_index_of_an_earlier_format_is_named(tmp_path: Path) -> None:
    layout = token_set(tmp_path / "run", [clips_of(1, 3)])
    path = open_seal(layout, STAGE, "default").shared_file("index")
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    write_index(tmp_path / "old", table.drop_columns("longest"))
    with pytest.raises(IntegrityError, match=r"old: is of an earlier format, without longest"):
        read_token_index(tmp_path / "old")
