"""Do the files of a committed shard agree with each other, clip by clip?"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from configs.errors import IntegrityError
from shards.commit import CommitRecord, ids_sha256
from shards.frames import read_shard_frames
from shards.index import decoded, read_shard_index
from shards.layout import Layout
from shards.plan import Plan
from shards.statistics import Moments

Faults = Iterator[tuple[Path, str]]


def check(layout: Layout, plan: Plan, record: CommitRecord) -> Faults:
    """(file, what is wrong) for everything in a shard's files that does not agree."""
    checker = CHECKS.get(record.stage)
    if checker is not None:
        yield from checker(layout, plan, record)


def _shard(layout: Layout, plan: Plan, record: CommitRecord) -> Faults:
    index_path = layout.root / record.file("index/").path
    index = read_shard_index(layout, record)
    planned = plan.rows(record.shard).column("id").to_pylist()
    if index.column("id").to_pylist() != planned or ids_sha256(planned) != record.ids_sha256:
        yield index_path, "does not hold the clips of its plan rows"
    rows = decoded(index)
    counted = {
        "clips": len(index),
        "ok": len(rows),
        "quarantined": len(index) - len(rows),
        "frames": sum(rows.column("num_frames").to_pylist()),
    }
    if counted != dict(record.counts):
        yield index_path, f"holds {counted}, on record {dict(record.counts)}"
    yield from _frames(layout, record, rows.column("num_frames").to_numpy())
    yield from _audio(layout, record, rows.column("key").to_pylist())


def _frames(layout: Layout, record: CommitRecord, lengths: np.ndarray) -> Faults:
    path = (layout.root / record.file("frames.zarr/").path).parent
    try:
        frames_TM = read_shard_frames(layout, record)
    except IntegrityError as error:
        yield path, str(error)
        return
    if len(frames_TM) != int(lengths.sum()):
        yield path, f"holds {len(frames_TM)} frames, the index {int(lengths.sum())}"
    if not np.isfinite(frames_TM).all():
        yield path, "holds NaN or infinite values"
    elif Moments.of(frames_TM) != Moments.from_json(record.detail["moments"]):
        yield path, "has other statistics than those on record"


def _audio(layout: Layout, record: CommitRecord, keys: list[str]) -> Faults:
    audio = [file for file in record.files if file.path.startswith("audio/")]
    for file in audio:
        path = layout.root / file.path
        with tarfile.open(path, "r:") as tar:
            names = [member.name for member in tar]
        if [name.partition(".")[0] for name in names] != [key for key in keys for _ in range(2)]:
            yield path, "does not hold the decoded clips of the index, each with its JSON"


def _tokenize(layout: Layout, _: Plan, record: CommitRecord) -> Faults:
    path = layout.root / record.files[0].path
    with tarfile.open(path, "r:") as tar:
        names = [member.name for member in tar]
        columns = {name: _load(tar, name) for name in names}
    lengths = [columns[name] for name in names if name.endswith(".lengths.npy")]
    tokens = [columns[name] for name in names if name.endswith(".tokens.npy")]
    counted = {
        "clips": sum(map(len, lengths)),
        "tokens": sum(block.size for block in tokens),
    }
    frames = [int(block.sum()) for block in lengths]
    if counted != dict(record.counts) or frames != [len(block) for block in tokens]:
        yield path, f"holds {counted}, on record {dict(record.counts)}"


def _load(tar: tarfile.TarFile, name: str) -> np.ndarray:
    member = tar.extractfile(name)
    if member is None:
        raise IntegrityError(f"{name} is no file")
    with member:
        data = io.BytesIO(member.read())
    loaded: np.ndarray = np.lib.format.read_array(data, allow_pickle=False)
    return loaded


CHECKS: dict[str, Callable[[Layout, Plan, CommitRecord], Faults]] = {
    "shard": _shard,
    "tokenize": _tokenize,
}
