"""Token shards as a plain webdataset pipeline: from any URL, in the order of shards and a buffer.

For training loops that stand on webdataset, and for shards that only a URL reaches. It reads from
front to back, so it knows no place to go on from and mixes what its buffer holds: the stream of
`shards/stream` does neither.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import google_crc32c
import numpy as np

from configs.errors import InputError, IntegrityError
from shards.commit import REPAIR
from shards.tokens import COLUMNS, Array, TokenIndex, block_name

if TYPE_CHECKING:
    from webdataset import DataPipeline

ALL = 1 << 62  # a buffer that holds every shard's name

Sample = dict[str, Any]
Check = Callable[[str, str, str, Array], None]  # url, block, column and what was read of it


def token_pipeline(
    urls: str | Sequence[str],
    *,
    seed: int | None = None,
    epoch: int = 0,
    buffer_clips: int = 0,
    check: Check | None = None,
    is_split: bool = True,
) -> DataPipeline:
    """Clips of token shards, one by one: dicts of `__key__`, `__url__`, `tokens` uint16 [T, Q] and
    `label_ids` int16 [labels].

    Each node and each DataLoader worker reads its own shards; all of them together, every clip
    once a pass. Raises InputError where a shard cannot be opened or holds no blocks of tokens,
    IntegrityError where one is seen to be damaged: a tar that is cut between two blocks ends early,
    for all that webdataset knows, so count what you need.

    Args:
        urls: whatever webdataset opens: paths, braces, http, pipe.
        seed: of the order of shards and clips, which differs from pass to pass; None: as stored.
        epoch: which pass the first one is. One object counts its passes, but a DataLoader that
            starts its workers anew starts the count anew: make a pipeline an epoch, or keep them.
        buffer_clips: clips that are shuffled among each other, at most; needs a seed.
        check: is called with every column read, and raises for a bad one.
        is_split: whether nodes and workers share the shards out; else each one reads them all.
    """
    import webdataset as wds  # it imports torch where there is one

    if not urls:
        raise InputError("no token shards are given: urls is empty")
    return wds.DataPipeline(
        wds.SimpleShardList(urls),
        _shuffled(ALL, seed, epoch),
        wds.split_by_node if is_split else None,
        wds.split_by_worker if is_split else None,
        wds.tarfile_to_samples(handler=_refuse),
        partial(clips_of_blocks, check=check),
        _shuffled(buffer_clips, seed, epoch),
    )


def _shuffled(size: int, seed: int | None, epoch: int) -> Any:
    """A stage that mixes up to `size` items; None, which a pipeline leaves out, where it would not
    mix any."""
    from webdataset import detshuffle

    if seed is None or not size:
        return None
    return detshuffle(bufsize=size, initial=size, seed=seed, epoch=epoch - 1)


def _refuse(error: Exception) -> bool:
    """As a handler of webdataset's, which puts the shard last into the arguments of an error."""
    what, *_, where = [*error.args, ""] if len(error.args) == 1 else error.args
    if isinstance(error, OSError):
        raise InputError(f"{where}: cannot be read: {error.strerror or what}") from None
    if "empty file" in str(what):  # also what comes from a web address that is none
        raise InputError(f"{where}: nothing came from there: is the address right?") from None
    raise IntegrityError(f"{where}: is damaged or no tar: {what}; {REPAIR}") from None


def clips_of_blocks(blocks: Iterable[Sample], check: Check | None = None) -> Iterator[Sample]:
    """The clips of blocks as webdataset reads them from a tar, undecoded."""
    for block in blocks:
        columns = {name: _column(block, name, check) for name in COLUMNS}
        yield from _clips(block["__url__"], block["__key__"], **columns)


def _column(block: Sample, name: str, check: Check | None) -> Array:
    where = f"{block['__url__']}: {block['__key__']}"
    if f"{name}.npy" not in block:
        raise InputError(
            f"{where} is no whole block of tokens, it has no {name}.npy: give the tars of "
            "RUN/tokens/NAME, as they are there"
        )
    try:
        data = io.BytesIO(block[f"{name}.npy"])
        column: Array = np.lib.format.read_array(data, allow_pickle=False)
    except ValueError as error:
        raise IntegrityError(f"{where}: {name} is damaged ({error}); {REPAIR}") from None
    if check is not None:
        check(block["__url__"], block["__key__"], name, column)
    return column


def _clips(
    url: str, block: str, tokens: Array, lengths: Array, keys: Array, labels: Array, counts: Array
) -> Iterator[Sample]:
    ends, label_ends = np.cumsum(lengths, dtype=np.int64), np.cumsum(counts, dtype=np.int64)
    is_whole = (lengths.sum(), counts.sum()) == (len(tokens), len(labels))
    if not is_whole or not len(keys) == len(lengths) == len(counts):
        raise IntegrityError(f"{url}: {block}: its columns do not agree; {REPAIR}")
    parts = zip(
        keys.tolist(),
        np.split(tokens, ends)[:-1],
        np.split(labels, label_ends)[:-1],
        strict=True,
    )
    for key, tokens_TQ, label_ids in parts:
        # Copies: a clip that waits in a buffer must not hold its whole block.
        own = {"tokens": tokens_TQ.copy(), "label_ids": label_ids.copy()}
        yield {"__key__": key.decode(), "__url__": url, **own}


@dataclass(frozen=True)
class Checksums:
    """A check that the columns of blocks are those of a sealed set, wherever its shards lie now."""

    sums: Mapping[tuple[str, str, str], int]  # CRC-32C, by the shard's file name, block and column

    @classmethod
    def of(cls, index: TokenIndex) -> Self:
        shards = [_file_name(index.files[shard].path) for shard in index.shard.tolist()]
        blocks = [block_name(number) for number in index.number.tolist()]
        return cls(
            {
                (shard, block, name): crc32c
                for name, column in index.columns.items()
                for shard, block, crc32c in zip(shards, blocks, column.crc32c.tolist(), strict=True)
            }
        )

    def __call__(self, url: str, block: str, column: str, array: Array) -> None:
        if google_crc32c.value(array.tobytes()) != self.sums.get((_file_name(url), block, column)):
            raise IntegrityError(f"{url}: {block}, {column} is damaged; {REPAIR}")


def _file_name(url: str) -> str:
    return url.rpartition("/")[2]
