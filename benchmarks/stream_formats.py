"""Made clips for `benchmarks.stream`, written in the format of every system that is compared.

    python -m benchmarks.stream_formats FORMAT DIRECTORY NUM_CLIPS

431 tokens (ten seconds) of 4,096, 1 to 5 labels of 527, and a key that says the clip's number.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_TOKENS, VOCABULARY, NUM_CLASSES = 431, 4096, 527
CLIPS_PER_FILE, CLIPS_PER_BLOCK = 2_048, 1_024
CHUNK_BYTES = 1 << 22  # of the formats that are cut by size


@dataclass(frozen=True)
class Clips:
    """Some made clips, as columns."""

    first: int
    tokens_NT: npt.NDArray[np.uint16]
    labels: npt.NDArray[np.uint16]  # flat
    starts: npt.NDArray[np.int64]  # [N + 1]

    def __len__(self) -> int:
        return len(self.tokens_NT)

    def key(self, place: int) -> str:
        return f"Y{self.first + place:010d}"

    @property
    def keys(self) -> list[str]:
        return [self.key(place) for place in range(len(self))]

    def labels_of(self, place: int) -> npt.NDArray[np.uint16]:
        return self.labels[self.starts[place] : self.starts[place + 1]]


def made(num_clips: int, at_once: int = CLIPS_PER_FILE) -> Iterator[Clips]:
    """All clips, some at a time; the same for every format."""
    for first in range(0, num_clips, at_once):
        count = min(at_once, num_clips - first)
        parts = [_part(start) for start in range(first, first + count, CLIPS_PER_BLOCK)]
        tokens = np.concatenate([part[0] for part in parts])[:count]
        counts = np.concatenate([part[1] for part in parts])[:count]
        starts = np.concatenate([[0], np.cumsum(counts)])
        labels = np.concatenate([part[2] for part in parts])[: starts[-1]]
        yield Clips(first, tokens, labels, starts)


def _part(start: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(start)
    tokens = rng.integers(0, VOCABULARY, (CLIPS_PER_BLOCK, NUM_TOKENS), dtype=np.uint16)
    counts = rng.integers(1, 6, CLIPS_PER_BLOCK)
    return tokens, counts, rng.integers(0, NUM_CLASSES, counts.sum(), dtype=np.uint16)


# --- ours, and the limit -------------------------------------------------------------------------


def write_ours(directory: Path, num_clips: int, per_shard: int = 10 * CLIPS_PER_BLOCK) -> None:
    """A sealed token set, as `tokenize` leaves it."""
    from shards.atomic import Attempt
    from shards.commit import StageLog, Written
    from shards.layout import Layout
    from shards.seal import write_seal
    from shards.tokens import STAGE, index_table, write_index

    layout = Layout(directory)
    log = StageLog(layout, STAGE, "default")
    records = [
        _token_shard(log, number, clips) for number, clips in enumerate(made(num_clips, per_shard))
    ]
    with Attempt(layout.partial, "index") as attempt:
        write_index(attempt.path("index"), index_table(records))
        index = Written.of(attempt, "index")
        file = index.publish(layout.root, layout.token_index("default", index.sha256))
    write_seal(log, records, {"index": file})


def _token_shard(log: Any, number: int, clips: Clips) -> Any:
    from shards.atomic import Attempt
    from shards.commit import CommitRecord, Written
    from shards.tokens import write_token_tar

    layout = log.layout
    with Attempt(layout.partial, f"tokens-{number}") as attempt:
        arrays = write_token_tar(attempt.path("tokens.tar"), list(_blocks(clips)))
        tar = Written.of(attempt, "tokens.tar")
        file = tar.publish(layout.root, layout.token_tar("default", number, tar.sha256))
    counts = {"clips": len(clips)}
    record = CommitRecord(log.stage, log.name, number, "", counts, "", (file,), {"arrays": arrays})
    return log.commit(record)


def _blocks(clips: Clips) -> Iterator[Any]:
    from shards.tokens import Block

    for start in range(0, len(clips), CLIPS_PER_BLOCK):
        places = range(start, min(start + CLIPS_PER_BLOCK, len(clips)))
        yield Block(
            number=(clips.first + start) // CLIPS_PER_BLOCK,
            tokens_SQ=clips.tokens_NT[places.start : places.stop].reshape(-1, 1),
            keys=[clips.key(place) for place in places],
            lengths=np.full(len(places), NUM_TOKENS, dtype=np.int32),
            labels=[clips.labels_of(place).tolist() for place in places],
        )


def write_memmap(directory: Path, num_clips: int) -> None:
    """Plain arrays of everything: as fast as it can be."""
    (clips,) = made(num_clips, num_clips)
    np.save(directory / "tokens.npy", clips.tokens_NT)
    np.save(directory / "labels.npy", clips.labels)
    np.save(directory / "starts.npy", clips.starts)
    np.save(directory / "keys.npy", np.array([key.encode() for key in clips.keys]))


# --- the others ----------------------------------------------------------------------------------


def write_webdataset_naive(directory: Path, num_clips: int) -> None:
    """A sample a clip, of an .npy and a .json member, by webdataset's own writer."""
    import webdataset as wds

    with wds.ShardWriter(f"{directory}/%06d.tar", maxcount=CLIPS_PER_FILE, verbose=0) as writer:
        for clips in made(num_clips):
            for place in range(len(clips)):
                labels = clips.labels_of(place).tolist()
                tokens = clips.tokens_NT[place]
                key = clips.key(place)
                writer.write({"__key__": key, "tokens.npy": tokens, "labels.json": labels})


def write_webdataset_best(directory: Path, num_clips: int) -> None:
    """A sample a clip, of one msgpack member, without the PAX headers of webdataset's writer."""
    import msgpack

    for clips in made(num_clips):
        with tarfile.open(directory / f"{clips.first:09d}.tar", "w") as tar:
            for place in range(len(clips)):
                pair = clips.tokens_NT[place].tobytes(), clips.labels_of(place).tobytes()
                data = msgpack.packb(pair)
                member = tarfile.TarInfo(f"{clips.key(place)}.mp")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_litdata(directory: Path, num_clips: int) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(directory), chunk_bytes=CHUNK_BYTES)
    for clips in made(num_clips):
        for place, item in enumerate(_items(clips)):
            writer.add_item(clips.first + place, item)
    writer.done()
    writer.merge()


def write_mosaic(directory: Path, num_clips: int) -> None:
    from streaming import MDSWriter

    columns = {"tokens": f"ndarray:uint16:{NUM_TOKENS}", "labels": "ndarray:uint16", "key": "str"}
    with MDSWriter(out=str(directory), columns=columns, size_limit=CHUNK_BYTES) as writer:
        for clips in made(num_clips):
            for item in _items(clips):
                writer.write(item)


def write_parquet(directory: Path, num_clips: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for clips in made(num_clips, 20 * CLIPS_PER_BLOCK):
        flat = pa.array(clips.tokens_NT.reshape(-1))
        table = pa.table(
            {
                "tokens": pa.FixedSizeListArray.from_arrays(flat, NUM_TOKENS),
                "labels": pa.ListArray.from_arrays(clips.starts.astype(np.int32), clips.labels),
                "key": clips.keys,
            }
        )
        path = directory / f"{clips.first:09d}.parquet"
        pq.write_table(
            table, path, row_group_size=CLIPS_PER_BLOCK, compression="none", use_dictionary=False
        )


def write_grain(directory: Path, num_clips: int) -> None:
    import msgpack
    from array_record.python.array_record_module import ArrayRecordWriter

    for clips in made(num_clips, 20 * CLIPS_PER_BLOCK):
        path = str(directory / f"{clips.first:09d}.array_record")
        writer = ArrayRecordWriter(path, "group_size:1,uncompressed")
        for place in range(len(clips)):
            tokens, labels = clips.tokens_NT[place], clips.labels_of(place)
            writer.write(msgpack.packb((clips.key(place), tokens.tobytes(), labels.tobytes())))
        writer.close()


def _items(clips: Clips) -> Iterator[dict[str, Any]]:
    for place in range(len(clips)):
        tokens, labels = clips.tokens_NT[place], clips.labels_of(place)
        yield {"tokens": tokens, "labels": labels, "key": clips.key(place)}


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "ours": write_ours,
    "memmap": write_memmap,
    "webdataset_naive": write_webdataset_naive,
    "webdataset_best": write_webdataset_best,
    "litdata": write_litdata,
    "mosaic": write_mosaic,
    "parquet": write_parquet,
    "grain": write_grain,
}

if __name__ == "__main__":
    format_name, where, count = sys.argv[1:]
    WRITERS[format_name](Path(where), int(count))
    print(json.dumps({"format": format_name, "clips": int(count)}))
