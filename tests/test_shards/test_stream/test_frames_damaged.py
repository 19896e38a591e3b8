"""Damaged frames are never read as frames: the error names the object, and the chunk in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from configs.errors import IntegrityError, NotMadeYet
from shards.commit import FileRecord
from shards.frames import CHUNK_ROWS
from shards.layout import Layout
from shards.stream.frames import open_frames
from tests.frame_sets import (
    NUM_MELS,
    Clip,
    Made,
    assert_holds,
    clips_of,
    cut,
    made_run,
    noise,
    source_of,
)


@pytest.fixture
def own(tmp_path: Path) -> Made:
    """Three shards of about 3 chunks, to harm."""
    return made_run(tmp_path / "run", [clips_of(seed, 20) for seed in (5, 6, 7)])


def object_of(made: Made, shard: int, end: str = "/c/0/0") -> FileRecord:
    return next(file for file in made.records[shard].files if file.path.endswith(end))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def places_of(path: Path, num_chunks: int) -> npt.NDArray[np.uint64]:
    return np.frombuffer(path.read_bytes()[-16 * num_chunks - 4 : -4], "<u8").reshape(-1, 2)


def test_a_damaged_chunk_is_named_and_the_others_are_read(own: Made) -> None:
    file = object_of(own, 1)
    path, num_chunks = own.layout.root / file.path, -(-own.records[1].counts["frames"] // 8192)
    for chunk, (offset, size) in enumerate(places_of(path, num_chunks).tolist()):
        flip(path, offset + size // 2)
        source, said = source_of(own), list[str]()
        for row in range(16, 32):
            try:
                assert_holds(source.read(np.array([row])), [own.clips[row]])
            except IntegrityError as error:
                said.append(str(error))
        assert 0 < len(said) < 16
        assert {text.partition("; `python -m shards")[0] for text in said} == {
            f"{file.path}: chunk {chunk} is damaged"
        }
        rows = np.r_[:16, 32:48]
        assert_holds(source.read(rows), [own.clips[row] for row in rows])
        flip(path, offset + size // 2)
    source.read(source.all_rows)


def test_no_flipped_byte_passes(own: Made) -> None:
    path = own.layout.root / object_of(own, 2).path
    for position in np.linspace(0, path.stat().st_size - 1, 60).astype(int).tolist():
        flip(path, position)
        with pytest.raises(IntegrityError, match=r"frames.zarr/000002-.*(chunk|index of its)"):
            source_of(own).read(np.arange(len(own.clips)))
        flip(path, position)


@pytest.mark.parametrize(("harm", "said"), [(Path.unlink, "is missing"), (cut, "has .* bytes")])
def test_a_missing_or_cut_object_is_an_error_at_first_touch(
    harm: Callable[[Path], None], said: str, own: Made
) -> None:
    harm(own.layout.root / object_of(own, 1).path)
    source = source_of(own)
    source.read(np.arange(16))
    with pytest.raises(IntegrityError, match=f"000001-.*c/0/0 {said}"):
        source.read(np.array([20]))


def test_a_damaged_index_part_and_damaged_metadata_are_errors(own: Made) -> None:
    flip(own.layout.root / own.records[1].file("index/").path, 99)
    with pytest.raises(IntegrityError, match="part-000001-.* is damaged"):
        source_of(own).lengths(np.array([20]))
    flip(own.layout.root / object_of(own, 0, "zarr.json").path, 99)
    with pytest.raises(IntegrityError, match="zarr.json is damaged"):
        source_of(own)


def test_chunks_of_nothing_but_zeros_are_not_stored_and_no_damage(tmp_path: Path) -> None:
    zeros = np.zeros((CHUNK_ROWS, NUM_MELS), np.float16)
    some = noise(np.random.default_rng(0), 50)
    made = made_run(tmp_path, [[Clip("a", some), Clip("b", zeros)], [Clip("c", zeros[:9])]])
    assert_holds(source_of(made).read(np.array([2, 1, 0])), [made.clips[n] for n in (2, 1, 0)])
    assert not any(file.path.endswith("/c/0/0") for file in made.records[1].files)


def test_a_set_without_clips_is_one(tmp_path: Path) -> None:
    source = source_of(made_run(tmp_path, [[Clip("refused", None)]]))
    assert (source.num_rows, source.unit_sizes.tolist(), source.rows_at_once) == (0, [], 8192)
    assert source.read(source.all_rows).clips() == []


def test_frames_before_the_seal_are_not_made_yet(tmp_path: Path) -> None:
    with pytest.raises(NotMadeYet):
        open_frames(Layout(tmp_path))
