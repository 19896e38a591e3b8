"""Trainings whose shards lie elsewhere: what they fetch, and when; also where the store hangs."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from configs.errors import InputError, IntegrityError
from configs.load import load_config
from configs.schema import Config
from shards.__main__ import VERBS
from shards.layout import Layout
from shards.seal import open_seal
from shards.stream.schedule import Place
from shards.tokens import STAGE, read_token_index
from tests.commands import ROOT
from tests.processes import family, is_at_work, wait_until
from tests.store_server import Store, serving
from tests.test_train.conftest import CopyRun
from train import evaluate, fit
from train.data import open_data
from train.jobs import jobs


@pytest.fixture
def store(finished: Config) -> Iterator[Store]:
    with serving(finished.run) as store:
        yield store


@pytest.fixture
def far(copy_run: CopyRun) -> Config:
    """A run without what lies elsewhere, and without its models."""
    config = copy_run()
    for name in ("models", "commits/fit", "audio", "frames.zarr"):
        shutil.rmtree(config.run / name)
    for name, _ in shards_of(config.run):
        (config.run / name).unlink()
    return config


def shards_of(run: Path) -> list[tuple[str, int]]:
    """Path and size of every token shard."""
    index = read_token_index(open_seal(Layout(run), STAGE, "default").shared_file("index"))
    return [(file.path, file.bytes) for file in index.files]


def reading(config: Config, **data: object) -> Config:
    return Config.model_validate(config.model_dump() | {"data": data})


def test_a_run_without_its_shards_trains_from_a_copy(
    far: Config, finished: Config, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(IntegrityError, match=r"is not there: .* data\.remote=URL"):
        fit.run(far)
    size_gib = sum(size for _, size in shards_of(far.run)) / 2**30
    config = reading(far, remote=store.address, cache_gib=size_gib / 2)
    assert fit.run(config) == 0
    assert evaluate.run(config) == 0
    for job, local in zip(jobs(config), jobs(finished), strict=True):
        weights = (path.directory / "model.safetensors" for path in (job, local))
        assert len({path.read_bytes() for path in weights}) == 1
    assert load_config(far.run).data.remote == store.address
    with pytest.raises(InputError, match=r"what is not here may lie at data\.remote=http://"):
        VERBS["verify"].run(far.run, Namespace(repair=True, level="quick", json=False))
    shutil.rmtree(far.run / "cache")
    words = Namespace(out=tmp_path / "out", name="default", format="parquet")
    assert VERBS["export"].run(far.run, words) == 0, "it reads where the run's config says"


def test_opening_fetches_nothing_and_a_window_only_its_own(far: Config, store: Store) -> None:
    config = reading(far, remote=store.address, order="window", window_blocks=2, threads=0)
    data = open_data(Layout(far.run), "default", far.split, None, config.data)
    assert data.longest == max(data.source.index.longest)
    assert store.gets.total() == 0
    train = config.train.model_copy(update={"batch_size": 2})
    steps = data.stream(data.rows("train"), train).steps(Place(0, 0))
    next(steps)
    assert 1 <= store.gets.total() <= 2 < len(shards_of(far.run))
    steps.close()


@contextmanager
def fitting(config: Config, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`train fit` of the linear model, as a process that is gone in the end."""
    command = [sys.executable, "-m", "train", "fit", str(config.run), "model=linear", *words]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("data.threads=1", signal.SIGINT),
        ("data.threads=1", signal.SIGTERM),
        ("data.threads=0", signal.SIGTERM),
        ("data.workers=2", signal.SIGTERM),
    ],
)
def test_a_signal_does_not_wait_for_a_store_that_hangs(
    how: str, number: signal.Signals, far: Config, store: Store
) -> None:
    store.always = "stall"
    with fitting(far, f"data.remote={store.address}", how) as process:
        assert store.half_sent.wait(60)
        assert_stops(process, number)


def assert_stops(process: subprocess.Popen[str], number: signal.Signals) -> None:
    asked_s = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - asked_s < 10
    assert process.returncode == 75, out + err
    assert "Traceback" not in err, err


def test_a_signal_while_loader_workers_start(far: Config, store: Store) -> None:
    with fitting(far, f"data.remote={store.address}", "data.workers=4") as process:
        wait_until(lambda: len(family(process.pid)) > 1, "a first worker")
        assert_stops(process, signal.SIGTERM)


def test_a_killed_training_leaves_nothing_that_holds_its_lock(far: Config, store: Store) -> None:
    """Its loader workers have the lock, too."""
    store.always = "stall"
    with fitting(far, f"data.remote={store.address}", "data.workers=2") as process:
        assert store.half_sent.wait(60)
        workers = family(process.pid)
        assert len(workers) > 2
        process.kill()
        wait_until(lambda: not any(map(is_at_work, workers)), "the end of its workers", 2)
    store.always = ""
    store.closed.set()
    assert fit.run(reading(far, remote=store.address)) == 0
