"""Audio by row: the bytes that are in the tars, from a walk over their headers, or decoded."""

from __future__ import annotations

import pickle
import tarfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import InputError, IntegrityError
from configs.schema import AudioConfig, Config
from pipeline.audio.decode import AudioFile, decode
from shards.index import open_shards
from shards.layout import Layout
from shards.stream.audio import AudioChunk, AudioSource, encoded_batch, open_audio, waveform_batch
from shards.stream.order import GlobalOrder, Order, WindowOrder
from shards.stream.proof import assert_resumes_exactly
from shards.stream.schedule import Piece, Schedule, World
from shards.stream.stream import Stream
from shards.stream.tokens import open_tokens
from shards.tar import BLOCK_BYTES, TarWriter, members
from tests.frame_sets import Clip, Made, clips_of, cut, made_run

STORES = ("flac", "source")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """33 clips in four shards, one of them empty, one with a refused clip only."""
    root = tmp_path_factory.mktemp("audio")
    shards = [clips_of(1, 20), [], [Clip("refused", None)], clips_of(2, 21)]
    return {store: made_run(root / store, shards, store) for store in STORES}


def values(data: bytes) -> npt.NDArray[np.float32]:
    """A decoder of its own: a sample a byte."""
    return np.frombuffer(data, np.uint8).astype(np.float32) / 255


def assert_holds(chunk: AudioChunk[bytes], clips: list[Clip]) -> None:
    assert [key.decode() for key in chunk.keys_N.tolist()] == [clip.key for clip in clips]
    assert list(chunk.items) == [clip.audio for clip in clips]
    assert chunk.lengths_N.tolist() == [len(clip.audio) for clip in clips]
    labels = [chunk.labels[a:b].tolist() for a, b in pairwise(chunk.label_starts)]
    assert labels == [list(clip.labels) for clip in clips]


@given(rows=st.lists(st.integers(0, 32), max_size=30), store=st.sampled_from(STORES))
@settings(max_examples=40, deadline=None)
def test_any_rows_in_any_order(rows: list[int], store: str, sets: dict[str, Made]) -> None:
    source = open_audio(sets[store].layout)
    assert source.num_rows == 33
    assert source.unit_sizes.tolist() == [16, 0, 0, 17]
    assert_holds(source.read(np.array(rows, dtype=np.int64)), [sets[store].clips[r] for r in rows])


def decode_as_made(data: bytes) -> npt.NDArray[np.float32]:
    return decode(AudioFile(data), AudioConfig()).waveform_N


def test_a_row_is_the_same_clip_as_in_tokens_and_its_bytes_are_those_of_tarfile(
    finished: Config,
) -> None:
    layout = Layout(finished.run)
    source, tokens = open_audio(layout), open_tokens(layout, "default")
    rows = np.random.default_rng(0).permutation(source.num_rows)
    keys = source.keys(rows)
    assert keys == tokens.keys(rows)
    assert source.lengths(rows).tolist() == tokens.lengths(rows).tolist()
    found: dict[str, bytes] = {}
    for record in open_shards(layout).records:
        with tarfile.open(layout.root / record.file("audio/").path) as tar:
            found |= {info.name: tar.extractfile(info).read() for info in tar}
    encoded = source.read(rows).items
    assert list(encoded) == [found[f"{key}.flac"] for key in keys]
    waveforms = open_audio(layout, decode_as_made).read(rows).items
    for data, waveform_S in zip(encoded, waveforms, strict=True):
        assert waveform_S.dtype == np.float32
        np.testing.assert_array_equal(waveform_S, decode_as_made(data))


@given(
    rows=st.lists(st.integers(0, 32), min_size=1, max_size=12),
    width=st.none() | st.integers(1, 2000),
)
@settings(max_examples=25, deadline=None)
def test_a_batch_is_padded_waveforms_or_bytes(
    rows: list[int], width: int | None, sets: dict[str, Made]
) -> None:
    first, num = len(rows) // 3, len(rows) - len(rows) // 3
    piece = Piece(first, len(rows), num - 1, np.arange(num, dtype=np.uint64))
    clips = [sets["flac"].clips[row] for row in rows[first:]]
    layout = sets["flac"].layout
    batch = waveform_batch(open_audio(layout, values).read(np.array(rows)), piece, width=width)
    longest = max(width or 0, *(len(clip.audio) for clip in clips), 0)
    assert (batch.waveforms_BS.shape, batch.waveforms_BS.dtype) == ((num, longest), np.float32)
    for waveform_S, clip in zip(batch.waveforms_BS, clips, strict=True):
        np.testing.assert_array_equal(waveform_S[: len(clip.audio)], values(clip.audio))
        assert not waveform_S[len(clip.audio) :].any()
    assert batch.keys == [clip.key for clip in clips]
    assert batch.lengths_B.tolist() == [len(clip.audio) for clip in clips]
    assert batch.weights_B.tolist() == [1.0] * (num - 1) + [0.0]
    plain = encoded_batch(open_audio(layout).read(np.array(rows)), piece)
    assert list(plain.encoded) == [clip.audio for clip in clips]


@pytest.mark.parametrize("mode", ["global", "window"])
@pytest.mark.parametrize(("decoder", "collate"), [(bytes, encoded_batch), (values, waveform_batch)])
def test_streams_of_audio_resume_exactly(
    mode: str, decoder: Any, collate: Any, sets: dict[str, Made]
) -> None:
    source = open_audio(sets["source"].layout, decoder)
    order: Order = GlobalOrder(source.num_rows, 3)
    if mode == "window":
        order = WindowOrder(source.unit_sizes, 1, 3)

    def make(world: World) -> Stream[Any, Any]:
        schedule = Schedule(source.num_rows, 6, 2)
        return Stream(source, order, schedule, collate, world=world, num_threads=0)

    seen = assert_resumes_exactly(make, range(0, 11, 4), num_ranks=(1, 2, 3), num_workers=(1, 2))
    assert Counter(row for rows, _ in seen for row in rows) == dict.fromkeys(range(33), 2)


def test_threads_walk_a_tar_once(sets: dict[str, Made], monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[str] = []

    def counted(file: Any) -> Any:
        walked.append(Path(file.name).name)
        return members(file)

    monkeypatch.setattr("shards.stream.audio.members", counted)
    source, clips = open_audio(sets["source"].layout), sets["source"].clips

    def ask(seed: int) -> None:
        rows = np.random.default_rng(seed).integers(source.num_rows, size=20)
        assert_holds(source.read(rows), [clips[row] for row in rows])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(40)))
    assert Counter(name[:12] for name in walked) == {"audio-000000": 1, "audio-000003": 1}


def test_a_source_goes_to_another_process_without_what_it_holds(sets: dict[str, Made]) -> None:
    source = open_audio(sets["source"].layout, values)
    source.read(source.all_rows)
    sent = pickle.loads(pickle.dumps(source))
    assert sent.fingerprint == source.fingerprint
    for one, other in zip(
        source.read(source.all_rows).items, sent.read(sent.all_rows).items, strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_run_without_audio_says_which_config_keeps_it(tmp_path: Path) -> None:
    made = made_run(tmp_path, [clips_of(1, 3)], "none")
    with pytest.raises(InputError, match=r"holds no audio \(audio.store=none\).*audio.store=flac"):
        open_audio(made.layout)


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(params=STORES)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """Two shards of 8 decoded clips, to harm."""
    shards = [clips_of(seed, 10) for seed in (5, 6)]
    return made_run(tmp_path / "run", shards, request.param)


def tar_of(made: Made, shard: int) -> Path:
    return made.layout.root / made.records[shard].file("audio/").path


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def offsets_of(path: Path) -> list[tuple[int, int]]:
    """Of every header, and of what follows it."""
    with tarfile.open(path) as tar:
        return [(info.offset, info.offset_data) for info in tar]


def refused(source: AudioSource, row: int) -> str:
    with pytest.raises(IntegrityError) as caught:
        source.read(np.array([row]))
    return str(caught.value)


def test_a_flipped_byte_of_a_header_is_named_with_its_clip(own: Made) -> None:
    path = tar_of(own, 1)
    for number, (offset, _) in enumerate(offsets_of(path)):
        for position in (0, 60, 126, 150, 156, 260, 511):
            flip(path, offset + position)
            source = open_audio(own.layout)
            assert_holds(source.read(np.arange(8)), list(own.clips[:8]))
            said = refused(source, 8)
            assert f"{path.name}: clip {own.clips[8 + number // 2].key}: the header of " in said
            flip(path, offset + position)


def test_flipped_bytes_of_a_source_are_named_with_their_clip(tmp_path: Path) -> None:
    own = made_run(tmp_path, [clips_of(5, 10)], "source")
    path = tar_of(own, 0)
    offset = offsets_of(path)[4][1]
    flip(path, offset)
    source = open_audio(own.layout)
    assert f"{path.name}: clip {own.clips[2].key}: its bytes are damaged; `python" in (
        refused(source, 2)
    )
    flip(path, offset)
    assert_holds(source.read(source.all_rows), list(own.clips))


def test_what_the_decoder_refuses_is_named_with_its_clip(own: Made) -> None:
    def fail(data: bytes) -> npt.NDArray[np.float32]:
        raise ValueError("not a FLAC")

    said = refused(open_audio(own.layout, fail), 9)
    assert f"{tar_of(own, 1).name}: clip {own.clips[9].key}: it cannot be decoded (not a FLAC)" in (
        said
    )


@pytest.mark.parametrize(("harm", "said"), [(Path.unlink, "is missing"), (cut, "has .* bytes")])
def test_a_missing_or_truncated_tar_is_an_error_at_first_touch(
    harm: Callable[[Path], None], said: str, own: Made
) -> None:
    harm(tar_of(own, 1))
    source = open_audio(own.layout)
    assert_holds(source.read(np.arange(8)), list(own.clips[:8]))
    with pytest.raises(IntegrityError, match=f"{tar_of(own, 1).name} {said}"):
        source.read(np.array([8]))


def test_a_tar_of_the_right_size_that_holds_other_members_is_refused(own: Made) -> None:
    path = tar_of(own, 1)
    size, rest = path.stat().st_size, path.read_bytes()
    offsets = offsets_of(path)
    path.write_bytes(rest[offsets[2][0] :].ljust(size, b"\0"))  # without the first clip
    said = refused(open_audio(own.layout), 8)
    assert f"clip {own.clips[8].key}: {own.clips[9].key}." in said
    assert f"stands in place of {own.clips[8].key}." in said
    path.write_bytes(rest[: offsets[8][0]].ljust(size, b"\0"))  # its end comes early
    said = refused(open_audio(own.layout), 8)
    assert f"clip {own.clips[12].key}: the end stands in place of" in said


def test_a_recipe_that_is_not_the_sealed_one_is_refused(own: Made) -> None:
    recipe = own.layout.commits("shard", "default") / "recipe.json"
    recipe.write_text('{"audio":{"store":"none"}}\n')
    with pytest.raises(IntegrityError, match="the recipe is missing or damaged"):
        open_audio(own.layout)


@given(contents=st.lists(st.binary(max_size=1100), max_size=8))
@settings(max_examples=40, deadline=None)
def test_members_are_those_of_tarfile(
    contents: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "members.tar"
    with TarWriter(path) as tar:
        added = [tar.add(f"clip{n}~e9~.flac", data) for n, data in enumerate(contents)]
    with path.open("rb") as file:
        assert list(members(file)) == added
    with tarfile.open(path) as plain:
        assert [(m.name, m.offset_data, m.size) for m in plain] == [
            (m.name, m.offset, m.bytes) for m in added
        ]
    size = sum(BLOCK_BYTES - -m.bytes // BLOCK_BYTES * BLOCK_BYTES for m in added)
    path.write_bytes(path.read_bytes()[:size])
    with path.open("rb") as file, pytest.raises(ValueError, match="no end of archive"):
        list(members(file))
