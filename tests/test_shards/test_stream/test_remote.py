"""Shards that lie elsewhere: fetched once, whole, within a bound, whatever the store does."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from configs.data import DataConfig
from configs.errors import InputError, IntegrityError, StoreFailed
from shards.layout import Layout
from shards.stream.order import WindowOrder
from shards.stream.remote import Patience
from shards.stream.schedule import Schedule
from shards.stream.stream import Stream
from shards.stream.tokens import open_tokens, token_batch
from tests.commands import ROOT
from tests.hub_server import REPO
from tests.hub_server import environment as hub_environment
from tests.hub_server import serving as hub_serving
from tests.processes import wait_until
from tests.store_server import Store, serving
from tests.test_shards.test_stream.conftest import NUM_SHARDS, QUICK, FarSet
from tests.token_sets import assert_holds

FIRST = np.arange(3)  # rows of the first shard
READ = """
import hashlib, sys
from pathlib import Path
from configs.data import DataConfig
from shards.layout import Layout
from shards.stream.tokens import open_tokens
print("begun", flush=True)
sys.stdin.readline()
source = open_tokens(Layout(Path(sys.argv[1])), "default", DataConfig(remote=sys.argv[2]))
chunk = source.read(source.all_rows)
print(hashlib.sha256(chunk.flat().tobytes()).hexdigest(), flush=True)
sys.stdin.readline()
"""


def reader(
    far: FarSet, url: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A process that reads all, at a line on its standard input, and says what."""
    words = [sys.executable, "-c", READ, str(far.layout.root), url]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def memory(far: FarSet) -> Iterator[str]:
    """The shards in fsspec's memory."""
    file_system = fsspec.filesystem("memory")
    for name in far.names:
        file_system.pipe(f"/far/{name}", (far.copy / name).read_bytes())
    yield "memory://far"
    file_system.rm("/far", recursive=True)


def test_a_set_is_read_from_any_kind_of_store(far: FarSet, store: Store, memory: str) -> None:
    for url in (store.address, store.address + "/", far.copy.as_uri(), str(far.copy), memory):
        source = open_tokens(far.layout, "default", DataConfig(remote=url))
        assert_holds(source, far.clips)
        assert len(far.cached()) == NUM_SHARDS
        for name in far.cached():
            (far.cache / name).unlink()
    assert set(store.gets.values()) == {2}, "one request a shard and address"
    assert not any((far.layout.root / name).exists() for name in far.names)


def test_a_set_is_read_from_the_hub(far: FarSet, tmp_path: Path) -> None:
    whole = open_tokens(Layout(far.copy), "default").read(np.arange(len(far.clips)))
    with hub_serving(far.copy) as (address, _):
        environment = hub_environment(address, tmp_path / "hub-cache")
        process = reader(far, f"hf://datasets/{REPO}", environment)
        said, _ = process.communicate("\n\n", timeout=120)
    assert said.strip() == hashlib.sha256(whole.flat().tobytes()).hexdigest()


def test_a_set_is_read_from_s3(far: FarSet, registry: None, tmp_path: Path) -> None:
    """s3fs in a place of its own: it wants another dateutil than kubernetes does."""
    words = ["-m", "uv", "pip", "install", "--quiet", "--target", str(tmp_path / "s3fs")]
    subprocess.run([sys.executable, *words, "s3fs==2026.9.0"], check=True, timeout=300)
    whole = open_tokens(Layout(far.copy), "default").read(np.arange(len(far.clips)))
    keys = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    with serving(far.copy.parent) as store:
        place = {"FSSPEC_S3_ENDPOINT_URL": store.address, "PYTHONPATH": str(tmp_path / "s3fs")}
        process = reader(far, f"s3://{far.copy.name}", os.environ | keys | place)
        said, _ = process.communicate("\n\n", timeout=120)
        assert set(store.gets.values()) == {1}, "one request a shard"
    assert said.strip() == hashlib.sha256(whole.flat().tobytes()).hexdigest()


def test_a_process_that_was_forked_fetches_for_itself(far: FarSet, store: Store) -> None:
    """As loader workers do. fsspec's own file systems refuse to be used on both sides."""
    source = open_tokens(far.layout, "default", DataConfig(remote=store.address))
    source.read(FIRST)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = int(len(source.read(source.all_rows).clips()) != len(far.clips))
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_no_error_tells_a_password(far: FarSet, store: Store) -> None:
    host = store.address.partition("://")[2]
    for path in far.copy.rglob("*.tar"):
        path.unlink()
    source = open_tokens(far.layout, "default", DataConfig(remote=f"http://me:secret@{host}"))
    with pytest.raises(InputError, match=rf"http://\.\.\.@{host}/tokens/.* is not there") as caught:
        source.read(FIRST)
    assert "secret" not in str(caught.value)


def test_what_is_cached_is_not_fetched_again(far: FarSet, store: Store) -> None:
    config = DataConfig(remote=store.address, cache=far.copy.parent / "elsewhere")
    for _ in range(3):
        assert_holds(open_tokens(far.layout, "default", config), far.clips)
    assert store.gets == {Path(name).name: 1 for name in far.names}
    found = {path.name for path in config.cache.iterdir()} if config.cache else set()
    hashes = (hashlib.sha256((far.copy / name).read_bytes()).hexdigest() for name in far.names)
    assert found == {*(f"{sha256}.shard" for sha256 in hashes), "lock"}


def test_a_shard_that_is_in_the_run_is_used_there_and_left_alone(far: FarSet, store: Store) -> None:
    whole, cut, *_ = far.names
    for name in (whole, cut):
        (far.layout.root / name).write_bytes((far.copy / name).read_bytes())
    os.truncate(far.layout.root / cut, 512)
    assert_holds(far.open(store.address, num_shards=1), far.clips)
    assert Path(whole).name not in store.gets
    assert store.gets[Path(cut).name] >= 1
    assert (far.layout.root / whole).read_bytes() == (far.copy / whole).read_bytes()
    assert (far.layout.root / cut).stat().st_size == 512


@pytest.mark.parametrize("fault", ["fail", "cut", "stall", "short", "wrong"])
def test_a_fault_that_passes_is_forgotten(fault: str, far: FarSet, store: Store) -> None:
    store.faults.append(fault)
    assert_holds(far.open(store.address), far.clips)
    assert sum(store.gets.values()) == NUM_SHARDS + 1
    assert all(name.endswith(".shard") for name in far.cached())


def test_two_failures_and_then_an_answer(far: FarSet, store: Store) -> None:
    store.faults.extend(["fail", "cut"])
    assert_holds(far.open(store.address), far.clips)


@pytest.mark.parametrize(
    ("fault", "words"), [("fail", "500"), ("cut", "Payload"), ("stall", "[Tt]imeout")]
)
def test_a_store_that_never_answers_is_named(
    fault: str, words: str, far: FarSet, store: Store
) -> None:
    store.always = fault
    with pytest.raises(StoreFailed, match=rf"in 3 attempts.*{words}") as caught:
        far.open(store.address).read(FIRST)
    assert f"{far.names[0]}: data.remote: {store.address}/{far.names[0]} " in str(caught.value)
    assert store.gets.total() == QUICK.attempts
    assert far.cached() == []


@pytest.mark.parametrize("fault", ["wrong", "short"])
def test_other_bytes_are_fetched_once_more_and_then_refused(
    fault: str, far: FarSet, store: Store
) -> None:
    store.always = fault
    sha256 = hashlib.sha256((far.copy / far.names[0]).read_bytes()).hexdigest()
    with pytest.raises(IntegrityError, match=rf"is [0-9a-f]{{64}}, not {sha256}") as caught:
        far.open(store.address).read(FIRST)
    assert far.names[0] in str(caught.value)
    assert store.gets.total() == 2
    assert far.cached() == []


def test_a_longer_file_takes_no_more_room_than_its_own(far: FarSet, store: Store) -> None:
    path = far.copy / far.names[0]
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(IntegrityError, match="is not the shard on record"):
        far.open(store.address).read(FIRST)


@pytest.mark.parametrize("kind", ["http", "file", "memory"])
def test_a_missing_shard_is_asked_for_once(
    kind: str, far: FarSet, store: Store, memory: str
) -> None:
    url = {"http": store.address, "file": far.copy.as_uri(), "memory": memory}[kind]
    (far.copy / far.names[0]).unlink()
    fsspec.filesystem("memory").rm(f"/far/{far.names[0]}")
    with pytest.raises(InputError, match="is not there: .* has to hold tokens/default/") as caught:
        far.open(url).read(FIRST)
    assert f"{url}/{far.names[0]}" in str(caught.value)
    assert store.gets.total() == (kind == "http")


def test_a_server_that_is_not_there(far: FarSet) -> None:
    with pytest.raises(StoreFailed, match=r"Connect"):
        far.open("http://127.0.0.1:9").read(FIRST)


def test_addresses_that_nobody_can_read(far: FarSet) -> None:
    with pytest.raises(InputError, match=r"data\.remote=nothing://x: Protocol not known"):
        far.open("nothing://x")
    if find_spec("s3fs") is None:
        with pytest.raises(InputError, match="pip install s3fs"):
            far.open("s3://bucket/run")


def test_a_driver_that_is_not_installed(far: FarSet) -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from pathlib import Path; from configs.errors import InputError\n"
        "from configs.data import DataConfig; from shards.stream.remote import files_of\n"
        "try: files_of(Path(sys.argv[1]), DataConfig(remote='https://host/run'))\n"
        "except InputError as error: print(error)"
    )
    words = [sys.executable, "-c", code, str(far.layout.root)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("data.remote=https://host/run: ")
    assert done.stdout.endswith("; pip install '.[remote]'\n")


def test_without_a_remote_fsspec_is_not_imported(far: FarSet) -> None:
    code = (
        "import sys; from shards.layout import Layout; from pathlib import Path;"
        "from shards.stream.tokens import open_tokens; open_tokens(Layout(Path(sys.argv[1])), "
        "'default'); sys.exit('fsspec' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(far.layout.root)], cwd=ROOT, check=True)


def test_a_full_disk_is_named_with_the_bytes(
    far: FarSet, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = far.open(store.address)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"no room for tokens/.* bytes; free some") as caught:
        source.read(FIRST)
    assert caught.value.filename == str(far.cache)
    monkeypatch.undo()
    assert far.cached() == []
    assert_holds(source, far.clips)


def test_processes_that_start_together_fetch_every_shard_once(far: FarSet, store: Store) -> None:
    store.pause_s = 0.02
    with ExitStack() as stack:
        processes = [stack.enter_context(reader(far, store.address)) for _ in range(2)]
        for process in processes:
            go_on(process)
        hashes = {process.stdout.readline() for process in processes if process.stdout}
        for process in processes:
            go_on(process)
    flat = np.concatenate([clip.tokens_TQ for clip in far.clips])
    assert hashes == {hashlib.sha256(flat.tobytes()).hexdigest() + "\n"}
    assert store.gets == {Path(name).name: 1 for name in far.names}


def test_a_killed_process_leaves_nothing_that_stands_in_the_way(far: FarSet, store: Store) -> None:
    store.faults.append("stall")
    with reader(far, store.address) as process:
        go_on(process)
        wait_until(store.half_sent.is_set)
        wait_until(lambda: any(name.endswith(".partial") for name in far.cached()))
        process.send_signal(signal.SIGKILL)
    (partial,) = far.cached()
    assert partial.endswith(".partial")
    assert_holds(far.open(store.address), far.clips)
    assert all(name.endswith(".shard") for name in far.cached())


def test_an_epoch_of_a_set_that_is_larger_than_its_cache(far: FarSet, store: Store) -> None:
    source = far.open(store.address, num_shards=2.5)
    most, seen = 0, []
    order = WindowOrder(source.unit_sizes, 3, seed=3)
    stream = Stream(
        source,
        order,
        Schedule(source.num_rows, 4, 2),
        lambda chunk, piece: token_batch(chunk, piece, pad_id=70_000),
        num_threads=2,
    )
    for step in stream.steps():
        for batch in step.batches:
            seen += batch.rows_B.tolist()
            for row, tokens_TQ, length in zip(
                batch.rows_B, batch.tokens_BTQ, batch.lengths_B, strict=True
            ):
                np.testing.assert_array_equal(tokens_TQ[:length], far.clips[row].tokens_TQ)
        most = max(most, far.cached_bytes())
    assert np.bincount(seen).tolist() == [2] * source.num_rows
    assert 0 < most <= int(2.5 * far.shard_bytes)
    assert store.gets.total() > NUM_SHARDS, "some were evicted, and fetched again"


def test_a_shard_that_nobody_finishes_is_not_waited_for_for_ever(far: FarSet, store: Store) -> None:
    store.always = "stall"
    with reader(far, store.address) as process:
        go_on(process)
        wait_until(lambda: any(name.endswith(".partial") for name in far.cached()))
        hasty = Patience(attempts=1, limit_s=0.2, pause_s=0.01)
        try:
            with pytest.raises(StoreFailed, match="another process fetches it"):
                far.open(store.address, patience=hasty).read(FIRST)
        finally:
            process.kill()
