"""The frame store: what was encoded is read back, and nothing damaged or missing ever is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import IntegrityError
from shards.atomic import sha256_file
from shards.commit import CommitRecord, publish_bytes
from shards.frames import (
    CHUNK_ROWS,
    FramesTM,
    encode_frames,
    read_array,
    read_shard_frames,
    write_group,
)
from shards.layout import Layout

NUM_MELS = 8
Store = Callable[[FramesTM], CommitRecord]


def made(num_rows: int, seed: int = 0) -> FramesTM:
    generator = np.random.default_rng(seed)
    return generator.normal(-40, 20, size=(num_rows, NUM_MELS)).astype(np.float16)


@pytest.fixture
def store(layout: Layout) -> Store:
    """Publish frames as shard 0 of a run; gives the record that names their objects."""

    def put(frames_TM: FramesTM) -> CommitRecord:
        write_group(layout, {"mel": {"n_mels": NUM_MELS}})
        objects = encode_frames(frames_TM)
        sha256 = hashlib.sha256(b"".join(objects.values())).hexdigest()
        array = layout.frames_array(0, sha256)
        files = tuple(
            publish_bytes(layout.partial, layout.root, array / name, data)
            for name, data in objects.items()
        )
        return CommitRecord("shard", "default", 0, "f", {}, "", files)

    return put


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("num_rows", [0, 1, CHUNK_ROWS, 2 * CHUNK_ROWS + 5])
def test_frames_round_trip_through_stock_zarr(num_rows: int, layout: Layout, store: Store) -> None:
    frames_TM = made(num_rows)
    record = store(frames_TM)
    np.testing.assert_array_equal(read_shard_frames(layout, record), frames_TM)
    group = zarr.open_group(layout.frames, mode="r")
    (name,) = group.array_keys()
    assert group.attrs["mel"] == {"n_mels": NUM_MELS}
    array = group[name]
    assert (array.shape, array.dtype) == (frames_TM.shape, np.float16)
    np.testing.assert_array_equal(np.asarray(array[:]), frames_TM)


@given(num_rows=st.integers(0, 40), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_equal_frames_give_equal_bytes(num_rows: int, seed: int) -> None:
    assert encode_frames(made(num_rows, seed)) == encode_frames(made(num_rows, seed))


def test_frames_are_one_object_beside_its_metadata() -> None:
    assert list(encode_frames(made(2 * CHUNK_ROWS + 5))) == ["c/0/0", "zarr.json"]
    assert list(encode_frames(made(0))) == ["zarr.json"]


def test_extreme_values_survive(layout: Layout, store: Store) -> None:
    frames_TM = np.zeros((3, NUM_MELS), np.float16)
    frames_TM[1] = [-100, 65504, -65504, 6e-8, -0.0, 1, 2, 3]
    again = read_shard_frames(layout, store(frames_TM))
    assert again.tobytes() == frames_TM.tobytes()


def test_a_flipped_byte_anywhere_in_the_chunks_is_found(layout: Layout, store: Store) -> None:
    record = store(made(300))
    path = layout.root / record.file("frames.zarr/").path
    for position in np.linspace(0, path.stat().st_size - 1, 40).astype(int):
        flip(path, int(position))
        with pytest.raises(IntegrityError, match=r"frames\.zarr"):
            read_shard_frames(layout, record)
        flip(path, int(position))
    assert len(read_shard_frames(layout, record)) == 300


def test_a_flipped_byte_in_the_metadata_is_found(layout: Layout, store: Store) -> None:
    record = store(made(30))
    metadata = next(file.path for file in record.files if file.path.endswith("zarr.json"))
    path = layout.root / metadata
    for position in np.linspace(0, path.stat().st_size - 1, 40).astype(int):
        flip(path, int(position))
        with pytest.raises(IntegrityError, match=r"frames\.zarr"):
            read_shard_frames(layout, record)
        flip(path, int(position))


@pytest.mark.parametrize("name", ["c/0/0", "zarr.json"])
def test_a_missing_object_is_an_error_and_not_zeros(
    name: str, layout: Layout, store: Store
) -> None:
    record = store(made(30))
    path = next(layout.root / file.path for file in record.files if file.path.endswith(name))
    path.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        read_shard_frames(layout, record)


def test_a_directory_that_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(IntegrityError):
        read_array(tmp_path)


def test_the_group_says_how_the_frames_were_made(layout: Layout) -> None:
    file = write_group(layout, {"frames": {"n_mels": 64}})
    path = layout.root / file.path
    assert zarr.open_group(layout.frames, mode="r").attrs["frames"] == {"n_mels": 64}
    assert (file.bytes, file.sha256) == (path.stat().st_size, sha256_file(path))


def test_a_group_that_stands_is_not_written_again(layout: Layout) -> None:
    path = layout.root / write_group(layout, {"frames": 1}).path
    before = path.stat().st_ino
    write_group(layout, {"frames": 1})
    assert path.stat().st_ino == before
