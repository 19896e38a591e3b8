"""Damaged blocks: refused, fetched again or masked, whichever of their columns it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.data import DataConfig
from configs.errors import ConfigError, IntegrityError
from configs.load import load_config
from shards.stream.blocks import Damage
from shards.stream.order import GlobalOrder
from shards.stream.proof import rows_of
from shards.stream.schedule import Piece, Schedule, World
from shards.stream.stream import Stream
from shards.stream.tokens import TokenSource, open_tokens, token_batch
from shards.tokens import COLUMNS
from tests.store_server import Store
from tests.test_shards.test_stream.conftest import CLIPS_PER_SHARD, NUM_SHARDS, FarSet
from tests.token_sets import PER_BLOCK, assert_holds

BLOCK, SHARD = 7, 2  # the second block of the third shard
LOST = range(BLOCK * PER_BLOCK, (BLOCK + 1) * PER_BLOCK)
MASK = DataConfig(on_damage="mask")
EACH = pytest.mark.parametrize("column", COLUMNS)
PAD = 70_000


def flip(far: FarSet, path: Path, column: str, block: int = BLOCK) -> None:
    where = far.index.columns[column]
    data = bytearray(path.read_bytes())
    data[int(where.offset[block]) + int(where.bytes[block]) // 2] ^= 4
    path.write_bytes(data)


@pytest.fixture
def local(far: FarSet) -> FarSet:
    """The same set with its shards in the run."""
    for name in far.names:
        (far.layout.root / name).write_bytes((far.copy / name).read_bytes())
    return far


def cached(far: FarSet) -> Path:
    return far.cache / f"{far.index.files[SHARD].sha256}.shard"


@EACH
def test_a_damaged_copy_is_refused_and_says_what_mends_it(
    column: str, far: FarSet, store: Store
) -> None:
    far.open(store.address).read(np.arange(far.index.num_rows))
    flip(far, cached(far), column)
    with pytest.raises(IntegrityError, match=rf"block \d+, {column} is damaged; .*=refetch"):
        assert_holds(far.open(store.address), far.clips)


@EACH
def test_a_damaged_copy_is_fetched_again(column: str, far: FarSet, store: Store) -> None:
    far.open(store.address).read(np.arange(far.index.num_rows))
    flip(far, cached(far), column)
    others = far.open(store.address)
    others.read(np.arange(2 * CLIPS_PER_SHARD))
    for _ in range(2):
        assert_holds(far.open(store.address, on_damage="refetch"), far.clips)
    assert store.gets.total() == NUM_SHARDS + 1
    assert f"{cached(far).name}.damaged" in far.cached()
    assert_holds(others, far.clips)


@EACH
def test_a_damaged_file_of_the_run_is_left_and_another_used(
    column: str, local: FarSet, store: Store
) -> None:
    path = local.layout.root / local.names[SHARD]
    flip(local, path, column)
    before = path.read_bytes()
    config = DataConfig(remote=store.address, on_damage="refetch")
    assert_holds(open_tokens(local.layout, "default", config), local.clips)
    assert path.read_bytes() == before
    assert store.gets == {path.name: 1}
    with pytest.raises(IntegrityError, match="is damaged"):
        assert_holds(open_tokens(local.layout, "default"), local.clips)


def test_two_readers_of_one_damaged_copy_fetch_it_once(far: FarSet, store: Store) -> None:
    far.open(store.address).read(np.arange(far.index.num_rows))
    flip(far, cached(far), "tokens")
    readers = [far.open(store.address, on_damage="refetch") for _ in range(2)]
    for reader in readers:
        reader.lengths(np.arange(SHARD * CLIPS_PER_SHARD, SHARD * CLIPS_PER_SHARD + 1))
    for reader in readers:
        assert_holds(reader, far.clips)
    assert store.gets.total() == NUM_SHARDS + 1


def test_what_is_set_aside_goes_first(far: FarSet, store: Store) -> None:
    bound = NUM_SHARDS + 0.5
    far.open(store.address, bound).read(np.arange(far.index.num_rows))
    flip(far, cached(far), "tokens")
    assert_holds(far.open(store.address, bound, on_damage="refetch"), far.clips)
    assert far.cached_bytes() <= bound * far.shard_bytes
    assert all(name.endswith(".shard") for name in far.cached())


def test_a_set_whose_copy_is_damaged_too_is_refused(local: FarSet, store: Store) -> None:
    """The index is of the set as it was sealed, the record's hash of the bytes as they are."""
    flip(local, local.layout.root / local.names[SHARD], "keys")
    flip(local, local.copy / local.names[SHARD], "keys")
    with pytest.raises(IntegrityError, match="is not the shard on record"):
        assert_holds(local.open(store.address, on_damage="refetch"), local.clips)


def masked(local: FarSet, column: str) -> TokenSource:
    flip(local, local.layout.root / local.names[SHARD], column)
    return open_tokens(local.layout, "default", MASK)


def assert_all_but_the_lost(source: TokenSource, far: FarSet) -> None:
    rows = source.all_rows
    chunk = source.read(rows)
    assert chunk.is_whole_N.tolist() == [row not in LOST for row in rows.tolist()]
    for row, (key, tokens_TQ) in enumerate(zip(source.keys(rows), chunk.clips(), strict=True)):
        clip = far.clips[row]
        np.testing.assert_array_equal(tokens_TQ, clip.tokens_TQ[: 0 if row in LOST else None])
        labels, _ = source.labels(np.array([row]))
        assert (key, labels.tolist()) == (("", []) if row in LOST else (clip.key, clip.labels))


@EACH
def test_a_masked_block_is_there_and_weighs_nothing(
    column: str, local: FarSet, capsys: pytest.CaptureFixture[str]
) -> None:
    source = masked(local, column)
    assert_all_but_the_lost(source, local)
    (damage,) = source.damaged
    number = int(local.index.number[BLOCK])
    assert damage == Damage(local.names[SHARD], number, column, PER_BLOCK)
    out = capsys.readouterr().out
    assert out.count("warning") == 1
    assert f"{local.names[SHARD]}: block {number}, {column} is damaged" in out


def piece_of(start: int, stop: int, num_real: int) -> Piece:
    return Piece(start, stop, num_real, np.zeros(stop - start, dtype=np.uint64))


@EACH
def test_batches_stand_as_without_damage(column: str, local: FarSet) -> None:
    whole = open_tokens(local.layout, "default").read(np.arange(local.index.num_rows))
    source = masked(local, column)
    rows = np.random.default_rng(1).permutation(source.num_rows)
    chunk = source.read(rows)
    for start in range(0, len(rows), 5):
        piece = piece_of(start, min(start + 5, len(rows)), 4)
        batch = token_batch(chunk, piece, pad_id=PAD)
        is_lost_B = np.isin(batch.rows_B, list(LOST))
        assert batch.rows_B.tolist() == rows[piece.rows].tolist()
        assert batch.weights_B.tolist() == (piece.weights * ~is_lost_B).tolist()
        assert batch.weights_B.dtype == np.float32
        assert (batch.tokens_BTQ[is_lost_B] == PAD).all()
        assert (batch.lengths_B[is_lost_B] == 1).all()
        expected = whole.lengths_N[batch.rows_B]
        assert batch.lengths_B[~is_lost_B].tolist() == expected[~is_lost_B].tolist()
        assert batch.lengths_B.dtype == whole.lengths_N.dtype
        assert not batch.targets(3)[is_lost_B].any()


def test_a_batch_of_nothing_but_masked_clips(local: FarSet) -> None:
    source = masked(local, "lengths")
    chunk = source.read(np.array(LOST))
    for width in (None, 4):
        piece = piece_of(0, len(LOST), len(LOST))
        batch = token_batch(chunk, piece, pad_id=PAD, width=width)
        assert batch.tokens_BTQ.shape == (PER_BLOCK, width or 1, 1)
        assert (batch.tokens_BTQ == PAD).all()
        assert batch.lengths_B.tolist() == [1] * PER_BLOCK
        assert batch.weights_B.tolist() == [0] * PER_BLOCK


def rows_that_count(far: FarSet, config: DataConfig, num_ranks: int) -> list[list[int]]:
    """Of every step, over all ranks."""
    source = open_tokens(far.layout, "default", config)
    order, schedule = GlobalOrder(source.num_rows, 3), Schedule(source.num_rows, 10, 2)
    ranks = [
        Stream(
            source,
            order,
            schedule,
            lambda chunk, piece: token_batch(chunk, piece, pad_id=PAD),
            world=World(rank, num_ranks),
            micro_batch_size=3,
        )
        for rank in range(num_ranks)
    ]
    return [
        sorted(row for step in steps for batch in step.batches for row in rows_of(batch))
        for steps in zip(*(rank.steps() for rank in ranks), strict=True)
    ]


def test_steps_of_any_ranks_keep_their_examples(local: FarSet) -> None:
    """Every example in its step, as often as ever, but that the lost ones weigh nothing."""
    whole = rows_that_count(local, DataConfig(), 1)
    flip(local, local.layout.root / local.names[SHARD], "counts")
    expected = [[row for row in rows if row not in LOST] for rows in whole]
    for num_ranks in (1, 2, 3):
        assert rows_that_count(local, MASK, num_ranks) == expected


def test_damage_is_said_once_a_shard_and_counted(
    local: FarSet, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in local.names:
        path = local.layout.root / name
        path.write_bytes(bytes(path.stat().st_size))
    source = open_tokens(local.layout, "default", MASK)
    chunk = source.read(source.all_rows)
    assert len(source.damaged) == local.index.num_blocks
    assert sum(damage.num_rows for damage in source.damaged) == source.num_rows
    assert not chunk.is_whole_N.any()
    assert len(chunk.flat()) == 0
    assert capsys.readouterr().out.count("\n") == NUM_SHARDS


def test_a_missing_shard_is_not_masked(local: FarSet) -> None:
    (local.layout.root / local.names[SHARD]).unlink()
    with pytest.raises(
        IntegrityError,
        match=r"is not there: .* data\.remote=URL says where",
    ):
        open_tokens(local.layout, "default", MASK).read(np.arange(local.index.num_rows))


def test_to_fetch_again_needs_an_address(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("run: x\nsource: {kind: folder, root: y}\ndata: {on_damage: refetch}\n")
    with pytest.raises(ConfigError, match=r"on_damage=refetch needs data\.remote"):
        load_config(path)
