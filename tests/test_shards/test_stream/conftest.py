"""A token set whose shards lie elsewhere, and ways to read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shards.layout import Layout
from shards.seal import open_seal
from shards.stream.blocks import OnDamage
from shards.stream.cache import Cache
from shards.stream.remote import Patience, RemoteFiles
from shards.stream.tokens import TokenSource
from shards.tokens import STAGE, TokenIndex, read_token_index
from tests.store_server import Store, serving
from tests.token_sets import Clip, clips_of, token_set

NUM_SHARDS, CLIPS_PER_SHARD = 8, 9
QUICK = Patience(attempts=3, limit_s=0.5, pause_s=0.01)


@dataclass(frozen=True)
class FarSet:
    """A run, a copy of it where its shards are, and what its clips are."""

    layout: Layout
    copy: Path
    clips: list[Clip]

    @property
    def index(self) -> TokenIndex:
        return read_token_index(open_seal(self.layout, STAGE, "default").shared_file("index"))

    @property
    def names(self) -> list[str]:
        """Paths of the shards in their order."""
        return [file.path for file in self.index.files]

    @property
    def shard_bytes(self) -> int:
        """Of the largest."""
        return max(file.bytes for file in self.index.files)

    @property
    def cache(self) -> Path:
        return self.layout.root / "cache"

    def cached(self) -> list[str]:
        return sorted(path.name for path in self.cache.glob("*") if path.name != "lock")

    def cached_bytes(self) -> int:
        """Of all files in the cache, partials in their full size, while none comes or goes."""
        with Cache(self.cache, 0).locked():
            return sum(path.stat().st_size for path in self.cache.iterdir())

    def open(
        self,
        url: str,
        num_shards: float = 100,
        patience: Patience = QUICK,
        on_damage: OnDamage = "raise",
    ) -> TokenSource:
        """The set with a cache of so many shards."""
        cache = Cache(self.cache, int(num_shards * self.shard_bytes))
        files = RemoteFiles(self.layout.root, url, cache, patience)
        return TokenSource(self.index, files, "made", on_damage)


MakeFar = Callable[[], FarSet]


@pytest.fixture
def make_far(tmp_path: Path) -> MakeFar:
    def make() -> FarSet:
        shards = [clips_of(seed, CLIPS_PER_SHARD) for seed in range(NUM_SHARDS)]
        layout = token_set(tmp_path / "run", shards)
        shutil.copytree(layout.root, tmp_path / "copy")
        far = FarSet(layout, tmp_path / "copy", [clip for clips in shards for clip in clips])
        for name in far.names:
            (layout.root / name).unlink()
        return far

    return make


@pytest.fixture
def far(make_far: MakeFar) -> FarSet:
    """Eight shards of nine clips, none of them in the run itself."""
    return make_far()


@pytest.fixture
def store(far: FarSet) -> Iterator[Store]:
    """A web server that has them."""
    with serving(far.copy) as serves:
        yield serves
