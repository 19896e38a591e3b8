"""The stock pipeline: every clip once, from any URL, over workers and nodes; nothing unpickled."""

from __future__ import annotations

import functools
import gc
import http.server
import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import webdataset
from torch.utils.data import DataLoader

from configs.errors import InputError, IntegrityError
from configs.schema import Config
from shards.export import TokenSet
from shards.tar import TarWriter
from shards.tokens import COLUMNS, npy
from shards.wds import Checksums, Sample, token_pipeline
from tests.export_sets import exported_set
from tests.token_sets import Clip, clips_of

# webdataset leaves its last tar to the garbage collector to close.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SHARDS = [clips_of(seed, 9, 2, shortest=1) for seed in range(4)]
CLIPS = [clip for shard in SHARDS for clip in shard]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    """Four shards of nine clips with two codebooks."""
    return exported_set(tmp_path_factory.mktemp("wds"), SHARDS, 2)


@pytest.fixture(scope="module")
def urls(made: TokenSet) -> list[str]:
    return [str(made.seal.layout.root / file.path) for file in made.index.files]


def keys_of(clips: Sequence[Sample] | webdataset.DataPipeline) -> list[str]:
    return [clip["__key__"] for clip in clips]


def assert_are(found: Sequence[Sample], clips: Sequence[Clip]) -> None:
    assert keys_of(found) == [clip.key for clip in clips]
    for sample, clip in zip(found, clips, strict=True):
        assert sample["tokens"].dtype == np.uint16
        np.testing.assert_array_equal(sample["tokens"], clip.tokens_TQ)
        assert sample["label_ids"].dtype == np.int16
        assert sample["label_ids"].tolist() == list(clip.labels)


def test_every_clip_comes_as_it_was_stored(urls: list[str]) -> None:
    found = list(token_pipeline(urls))
    assert_are(found, CLIPS)
    assert {clip["__url__"] for clip in found} == set(urls)
    assert all(clip["tokens"].base is None for clip in found), "a view holds its block in memory"


def test_the_finished_run(finished: Config) -> None:
    tars = sorted((finished.run / "tokens/default").glob("*.tar"))
    clips = list(token_pipeline([str(path) for path in tars]))
    assert len(set(keys_of(clips))) == 64
    assert all(clip["tokens"].shape[1] == 1 and len(clip["label_ids"]) for clip in clips)


def test_braces_pipes_and_http(urls: list[str], tmp_path: Path) -> None:
    for number, url in enumerate(urls):
        (tmp_path / f"{number:06d}.tar").symlink_to(url)
    braces = "{000000..000003}.tar"
    assert_are(list(token_pipeline(f"{tmp_path}/{braces}")), CLIPS)
    assert_are(list(token_pipeline(f"file:{tmp_path}/{braces}")), CLIPS)
    assert_are(list(token_pipeline([f"pipe:cat {url}" for url in urls])), CLIPS)
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"http://127.0.0.1:{server.server_port}/{braces}"
        assert_are(list(token_pipeline(where)), CLIPS)
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("buffer_clips", [0, 7, 1000])
def test_epochs_are_other_orders_of_every_clip(urls: list[str], buffer_clips: int) -> None:
    pipeline = token_pipeline(urls, seed=3, buffer_clips=buffer_clips)
    first, second = keys_of(pipeline), keys_of(pipeline)
    stored = [clip.key for clip in CLIPS]
    assert sorted(first) == sorted(second) == sorted(stored)
    assert len({tuple(order) for order in (first, second, stored)}) == 3
    again = token_pipeline(urls, seed=3, epoch=1, buffer_clips=buffer_clips)
    assert keys_of(again) == second, "one object counts its passes"
    assert keys_of(token_pipeline(urls, seed=4, buffer_clips=buffer_clips)) != first


def test_loader_workers_share_the_shards(urls: list[str]) -> None:
    pipeline = token_pipeline(urls, seed=1, buffer_clips=5)
    found = list(DataLoader(pipeline, batch_size=None, num_workers=2, timeout=60))
    assert sorted(keys_of(found)) == sorted(clip.key for clip in CLIPS)
    tokens = {clip.key: clip.tokens_TQ for clip in CLIPS}
    for clip in found:
        np.testing.assert_array_equal(np.asarray(clip["tokens"]), tokens[clip["__key__"]])


def test_nodes_share_the_shards(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    found: list[str] = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        found += keys_of(token_pipeline(urls, seed=1))
    assert sorted(found) == sorted(clip.key for clip in CLIPS)


def block_with(path: Path, **over: bytes | None) -> str:
    """A tar of one block of one clip; a column that is None is left out."""
    columns: dict[str, bytes | None] = {
        "tokens": npy(np.ones((2, 1), dtype=np.uint16)),
        "lengths": npy(np.array([2], dtype=np.int32)),
        "keys": npy(np.array([b"one"])),
        "labels": npy(np.array([], dtype=np.int16)),
        "counts": npy(np.array([0], dtype=np.uint16)),
        **over,
    }
    with TarWriter(path) as tar:
        for name, data in columns.items():
            if data is not None:
                tar.add(f"b000000.{name}.npy", data)
    return str(path)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def test_what_is_no_block_of_tokens(tmp_path: Path, finished: Config) -> None:
    good = block_with(tmp_path / "good.tar")
    assert keys_of(token_pipeline(good)) == ["one"]
    audio = next((finished.run / "audio").glob("*.tar"))
    with pytest.raises(
        InputError, match=r"is no whole block of tokens, it has no tokens.npy: give the"
    ):
        list(token_pipeline(str(audio)))
    with pytest.raises(InputError, match="urls is empty"):
        token_pipeline([])
    lacking = block_with(tmp_path / "lacking.tar", counts=None)
    with pytest.raises(
        InputError, match=r"lacking.tar: b000000 is no whole block .* no counts.npy"
    ):
        list(token_pipeline(lacking))


@pytest.mark.parametrize("column", COLUMNS)
def test_nothing_is_unpickled(column: str, tmp_path: Path) -> None:
    url = block_with(tmp_path / "bad.tar", **{column: pickled()})
    with pytest.raises(
        IntegrityError, match=rf"{column} is damaged \(Object arrays cannot be load"
    ):
        list(token_pipeline(url))


def test_what_cannot_be_opened_or_read(urls: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.tar: cannot be read: No such file or directory"):
        list(token_pipeline([*urls, f"{tmp_path}/none.tar"]))
    # Whichever comes first: that nothing is to read, or how the command ended.
    with pytest.raises((InputError, IntegrityError), match=r"pipe:exit 5: (cannot|nothing came)"):
        list(token_pipeline("pipe:exit 5"))
    data = Path(urls[0]).read_bytes()
    broken = {
        "noise": b"noise" * 1000,
        "cut": data[:3000],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IntegrityError, match=rf"{name}.*: is damaged or no tar: "):
            list(token_pipeline(str(tmp_path / name)))
    (tmp_path / "torn").write_bytes(data[:2048] + b"x" + data[2049:])  # for tarfile, the end
    with pytest.raises(InputError, match=r"torn: b000000 is no whole block of tokens, it has no"):
        list(token_pipeline(str(tmp_path / "torn")))


def test_columns_that_do_not_agree(tmp_path: Path) -> None:
    longer = block_with(tmp_path / "bad.tar", lengths=npy(np.array([3], dtype=np.int32)))
    with pytest.raises(IntegrityError, match=r"bad.tar: b000000: its columns do not agree"):
        list(token_pipeline(longer))


def test_checksums_see_a_flipped_bit(made: TokenSet, urls: list[str], tmp_path: Path) -> None:
    check = Checksums.of(made.index)
    assert len(list(token_pipeline(urls, check=check))) == len(CLIPS)
    flipped = tmp_path / Path(urls[0]).name
    for name, column in made.index.columns.items():
        data = bytearray(Path(urls[0]).read_bytes())
        data[int(column.offset[1] + column.bytes[1]) - 1] ^= 2
        flipped.write_bytes(data)
        with pytest.raises(IntegrityError, match=rf"{flipped}: b000001, {name} is damaged"):
            list(token_pipeline(str(flipped), check=check))
