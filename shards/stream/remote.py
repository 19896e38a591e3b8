"""Shards of a run that lie in a store: fetched when they are first asked for.

Seals, indices, plan and codebooks are small, and in the run on disk; the token tars may lie below
any URL that fsspec knows, at the same relative paths.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import IO, Any

from configs.data import DataConfig
from configs.errors import InputError, IntegrityError, StoreFailed
from configs.load import load_config
from shards.commit import FileRecord
from shards.layout import Layout
from shards.seal import check_size
from shards.stream.cache import Cache, Partial
from shards.stream.files import Files, LocalFiles

CHUNK_BYTES = 4 * 2**20
CHUNKS_AHEAD = 4
BLOCK_BYTES = 8 * 2**20  # s3fs wants 5 MiB or more
POLL_S = 0.02


@dataclass(frozen=True)
class Patience:
    """How often a store is asked, how long a read may bring nothing, and the pause between (which
    doubles)."""

    attempts: int = 5
    limit_s: float = 60.0
    pause_s: float = 0.5

    @property
    def longest_s(self) -> float:
        """Within which a process that fetches gives up, or makes progress."""
        return self.attempts * self.limit_s + self.pause_s * 2.0**self.attempts


class RemoteFiles:
    """The files of a run, from its directory where they are there in their full size, else from a
    copy of the run at `url`, through a cache."""

    cure = "data.on_damage=refetch fetches it again"

    def __init__(
        self, root: Path, url: str, cache: Cache, patience: Patience | None = None
    ) -> None:
        self._root, self._url, self._cache = root, url.rstrip("/"), cache
        self._patience = patience or Patience()
        _file_system(url)  # or it cannot be read at all
        self._distrusted: set[str] = set()  # hashes of files of the run itself that are damaged

    def open(self, file: FileRecord) -> IO[bytes]:
        """Raises InputError where the store has no such file, IntegrityError where it has other
        bytes, StoreFailed where it does not answer, CacheFull, and OSError where the disk is full.
        """
        if self._is_local(file):
            return (self._root / file.path).open("rb")
        deadline_s, seen_ns = time.monotonic() + self._patience.longest_s, 0
        while True:
            if (found := self._cache.find(file)) is not None:
                return found
            if (partial := self._cache.claim(file)) is not None:
                return self._fetch(file, partial)
            if (now_ns := self._cache.fetched_ns(file)) != seen_ns:
                deadline_s, seen_ns = time.monotonic() + self._patience.longest_s, now_ns
            if time.monotonic() > deadline_s:
                raise StoreFailed(f"{file.path}: another process fetches it, and makes no progress")
            time.sleep(POLL_S)

    def replace(self, file: FileRecord, bad: os.stat_result) -> None:
        """A damaged file of the run itself is left alone, and not used any more."""
        if self._is_local(file):
            self._distrusted.add(file.sha256)
        else:
            self._cache.set_aside(file, bad)

    def may_all_stay(self, files: Sequence[FileRecord]) -> bool:
        def fits(some: Sequence[FileRecord]) -> bool:
            return sum(file.bytes for file in some) <= self._cache.max_bytes

        return fits(files) or fits([file for file in files if not self._is_local(file)])

    def _is_local(self, file: FileRecord) -> bool:
        try:
            check_size(self._root, file)
        except IntegrityError:
            return False
        return file.sha256 not in self._distrusted

    def _fetch(self, file: FileRecord, partial: Partial) -> IO[bytes]:
        with partial:
            for _ in range(2):  # a proxy or a disk on the way may have been at fault
                found = self._download(file, partial)
                if found == file.sha256:
                    return partial.keep()
        raise IntegrityError(
            f"{self._shown(file)} is not the shard on record, also when fetched again: its "
            f"sha256 is {found}, not {file.sha256}; copy {file.path} there again"
        )

    def _download(self, file: FileRecord, partial: Partial) -> str:
        """Write a file to its partial; returns the sha256 of what came."""
        for attempt in range(self._patience.attempts):
            if attempt:
                time.sleep(self._patience.pause_s * 2 ** (attempt - 1))
            try:
                return self._attempt(file, partial)
            except _StoreError as error:
                cause = error.cause
            if isinstance(cause, FileNotFoundError):
                raise InputError(
                    f"data.remote: {self._shown(file)} is not there: is the address that of a copy "
                    f"of the run? It has to hold {file.path}"
                )
        raise StoreFailed(
            f"{file.path}: data.remote: {self._shown(file)} could not be read in "
            f"{self._patience.attempts} attempts; the last one: {_words(cause)}. Run again once "
            "the store answers, or with another address"
        )

    def _attempt(self, file: FileRecord, partial: Partial) -> str:
        digest, size = hashlib.sha256(), 0
        partial.begin()
        with closing(_chunks(lambda: self._open(file), self._patience.limit_s)) as chunks:
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                if size > file.bytes:  # the wrong file; its room is not ours to take
                    break
                partial.write(chunk)
        return digest.hexdigest()

    def _open(self, file: FileRecord) -> IO[bytes]:
        options = _streaming(self._url, file, self._patience.limit_s)
        # Asked for each time: a process that was forked needs one of its own, which fsspec keeps.
        found: IO[bytes] = _file_system(self._url).open(self._address(file), "rb", **options)
        return found

    def _address(self, file: FileRecord) -> str:
        return f"{self._url}/{file.path}"

    def _shown(self, file: FileRecord) -> str:
        return without_secrets(self._address(file))


def files_of(root: Path, config: DataConfig) -> Files:
    """Where the shards of the run at `root` are; raises InputError for a URL that fsspec cannot
    read."""
    if config.remote is None:
        return LocalFiles(root, is_all=False)
    cache = Cache(config.cache or root / "cache", int(config.cache_gib * 2**30))
    files = RemoteFiles(root, config.remote, cache)
    cache.trim()
    return files


def where_shards_are(layout: Layout) -> DataConfig:
    """As the run's own config says, for verbs that are given a run alone."""
    if not layout.config.exists():
        return DataConfig()
    data = load_config(layout.root).data
    if data.remote is None:
        return DataConfig()
    return DataConfig(remote=data.remote, cache=data.cache, cache_gib=data.cache_gib)


def without_secrets(url: str) -> str:
    """A URL for people: names and passwords before the host are left out."""
    return re.sub(r"//[^/@\s]*@", "//...@", url)


class _StoreError(Exception):
    """Whatever a driver raised; drivers have no errors in common."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


def _file_system(url: str) -> Any:
    import fsspec  # only who reads from afar waits for it

    try:
        return fsspec.core.url_to_fs(url)[0]
    except ImportError as error:
        package = "s3fs" if url.startswith("s3") else "'.[remote]'"
        raise InputError(
            f"data.remote={without_secrets(url)}: {error}; pip install {package}"
        ) from None
    except ValueError as error:
        raise InputError(f"data.remote={without_secrets(url)}: {error}") from None


def _streaming(url: str, file: FileRecord, limit_s: float) -> dict[str, Any]:
    """Options for one request a file, where a driver would make one for each read."""
    protocol = url.partition("://")[0]
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=limit_s, sock_read=limit_s)
        return {"block_size": 0, "size": file.bytes, "timeout": timeout}
    # Others ask block by block, s3fs for 50 MB if it may: no chunk would come for long.
    return {"block_size": 0 if protocol == "hf" else BLOCK_BYTES}


def _chunks(open_file: Callable[[], IO[bytes]], limit_s: float) -> Generator[bytes, None, None]:
    """A file piece by piece; raises _StoreError, also where `limit_s` pass without one.

    A thread reads, because few drivers can be told when to give up; one that hangs is left behind.
    """
    found: Queue[bytes | Exception] = Queue(maxsize=CHUNKS_AHEAD)
    stop = Event()
    Thread(target=_pump, args=(open_file, found, stop), name="fetch", daemon=True).start()
    try:
        while piece := _next(found, limit_s):
            yield piece
    finally:
        stop.set()
        while not found.empty():  # or it would wait for room for ever
            found.get_nowait()


def _next(found: Queue[bytes | Exception], limit_s: float) -> bytes:
    try:
        piece = found.get(timeout=limit_s)
    except Empty:
        raise _StoreError(TimeoutError(f"nothing came for {limit_s:g} s")) from None
    if isinstance(piece, Exception):
        raise _StoreError(piece)
    return piece


def _pump(open_file: Callable[[], IO[bytes]], found: Queue[bytes | Exception], stop: Event) -> None:
    try:
        with open_file() as file:
            while not stop.is_set():
                chunk = file.read(CHUNK_BYTES)
                found.put(chunk)
                if not chunk:
                    return
    except Exception as error:
        found.put(error)


def _words(error: Exception) -> str:
    text = without_secrets(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
