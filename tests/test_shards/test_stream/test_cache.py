"""The cache: bounded in bytes, and nothing goes that is in use, or that is not its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from configs.data import DataConfig
from configs.errors import CacheFull, InputError
from shards.stream import files
from shards.stream.tokens import open_tokens
from tests.commands import ROOT
from tests.store_server import Store
from tests.test_shards.test_stream.conftest import CLIPS_PER_SHARD, NUM_SHARDS, FarSet
from tests.token_sets import assert_holds

HOLD = """
import sys
from pathlib import Path
from configs.data import DataConfig
from shards.layout import Layout
from shards.stream.tokens import open_tokens
source = open_tokens(Layout(Path(sys.argv[1])), "default", DataConfig(remote=sys.argv[2]))
source.lengths(source.all_rows[:1])
print("mapped", flush=True)
sys.stdin.readline()
print(source.read(source.all_rows[:3]).flat().sum(), flush=True)
"""


def rows_of(shard: int) -> np.ndarray:
    return np.arange(shard * CLIPS_PER_SHARD, (shard + 1) * CLIPS_PER_SHARD)


def test_what_was_used_least_recently_goes_first(far: FarSet, store: Store) -> None:
    source = far.open(store.address, num_shards=3)
    hashes = [file.sha256 for file in far.index.files]
    for age_s, shard in enumerate((2, 0, 1)):
        source.read(rows_of(shard))
        os.utime(far.cache / f"{hashes[shard]}.shard", (1e9 + age_s, 1e9 + age_s))
    other = far.open(store.address, num_shards=3)
    other.read(rows_of(2))  # touches it
    other.read(rows_of(3))
    assert set(far.cached()) == {f"{hashes[shard]}.shard" for shard in (2, 1, 3)}


@pytest.mark.parametrize("num_shards", [1, 1.5, 3])
def test_any_order_of_rows_through_a_small_cache(
    num_shards: float, far: FarSet, store: Store
) -> None:
    source = far.open(store.address, num_shards)
    generator = np.random.default_rng(5)
    for _ in range(5):
        rows = generator.integers(0, source.num_rows, 20)
        for row, tokens_TQ in zip(rows, source.read(rows).clips(), strict=True):
            np.testing.assert_array_equal(tokens_TQ, far.clips[row].tokens_TQ)
        assert far.cached_bytes() <= int(num_shards * far.shard_bytes)
    assert_holds(source, far.clips)


def test_threads_share_a_small_cache(far: FarSet, store: Store) -> None:
    source = far.open(store.address, num_shards=4)

    def read(seed: int) -> None:
        rows = np.random.default_rng(seed).integers(0, source.num_rows, 15)
        for row, tokens_TQ in zip(rows, source.read(rows).clips(), strict=True):
            np.testing.assert_array_equal(tokens_TQ, far.clips[row].tokens_TQ)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(40)))
    assert far.cached_bytes() <= 4 * far.shard_bytes


def test_maps_are_dropped_where_others_take_their_room(far: FarSet, store: Store) -> None:
    """The whole set would fit, but files of another one are in use in the same cache."""
    far.cache.mkdir()
    source = far.open(store.address, NUM_SHARDS)
    with ExitStack() as stack:
        for number in range(2):
            path = far.cache / f"{number:064x}.shard"
            path.write_bytes(bytes(far.shard_bytes))
            fcntl.flock(stack.enter_context(path.open()), fcntl.LOCK_SH)
        assert_holds(source, far.clips)
        assert far.cached_bytes() <= NUM_SHARDS * far.shard_bytes
        assert 1 < len(source._maps._kept) < NUM_SHARDS


def test_a_shard_that_never_fits(far: FarSet, store: Store) -> None:
    with pytest.raises(InputError, match=r"data\.cache_gib=.* is less than the [\d,]+ bytes"):
        far.open(store.address, num_shards=0.5).read(rows_of(0))
    assert store.gets.total() == 0


@pytest.mark.parametrize("num_shards", [1, 3])
def test_readers_of_a_small_cache_do_not_stand_in_each_others_way(
    num_shards: int, far: FarSet, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None keeps what it does not read, whether there would be room for it or not."""
    monkeypatch.setattr(files, "ROOM_LIMIT_S", 0.3)
    readers = [far.open(store.address, num_shards=num_shards) for _ in range(2)]
    for shard in range(NUM_SHARDS):
        for reader in readers:
            reader.read(rows_of(shard))
    for reader in readers:
        assert_holds(reader, far.clips)


@pytest.mark.parametrize("is_there", [False, True])
def test_what_another_process_has_mapped_stays(
    is_there: bool, far: FarSet, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ROOM_LIMIT_S", 0.3)
    if is_there:
        far.open(store.address).read(rows_of(0))
    words = [sys.executable, "-c", HOLD, str(far.layout.root), store.address]
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mapped\n"
        mapped = far.cached()
        source = far.open(store.address, num_shards=1.5)
        with pytest.raises(CacheFull, match=r"data\.cache_gib=.* is in use; raise it by"):
            source.read(rows_of(1))
        assert far.cached() == mapped
        out, _ = process.communicate("\n")
    first = np.concatenate([clip.tokens_TQ for clip in far.clips[:3]])
    assert int(out) == int(first.sum())
    assert_holds(source, far.clips)


def test_an_array_outlives_its_file(far: FarSet, store: Store) -> None:
    """What was read stays true while its shard is forgotten, evicted and fetched again."""
    source = far.open(store.address, num_shards=1)
    keys = source._maps[0].data
    before = bytes(keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "ROOM_LIMIT_S", 0.2)
        with pytest.raises(CacheFull):
            source.read(rows_of(1))
    assert bytes(keys) == before
    del keys
    source.read(rows_of(1))


def test_files_of_others_are_left_alone(far: FarSet, store: Store) -> None:
    far.cache.mkdir()
    names = ("notes.txt", "tokens-000000-abc.tar", "f" * 64, "f" * 63 + ".shard")
    others = [far.cache / name for name in names]
    for path in others:
        path.write_bytes(bytes(10 * far.shard_bytes))
    source = far.open(store.address, num_shards=1)
    assert_holds(source, far.clips)
    assert all(path.exists() for path in others)


def test_a_cached_file_of_another_size_is_fetched_again(far: FarSet, store: Store) -> None:
    assert_holds(far.open(store.address), far.clips)
    os.truncate(far.cache / far.cached()[3], 700)
    assert_holds(far.open(store.address), far.clips)
    assert store.gets.total() == NUM_SHARDS + 1


def test_a_smaller_bound_holds_from_the_start(far: FarSet, store: Store) -> None:
    assert_holds(far.open(store.address), far.clips)
    most_gib = 2 * far.shard_bytes / 2**30
    config = DataConfig(remote=store.address, cache_gib=most_gib)
    source = open_tokens(far.layout, "default", config)
    assert far.cached_bytes() <= 2 * far.shard_bytes
    assert_holds(source, far.clips)
    assert far.cached_bytes() <= 2 * far.shard_bytes
