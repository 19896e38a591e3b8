"""One contract for every kind of place: the same bytes although a worker is killed, nothing left
behind, and nothing to be reached from other machines."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from configs.load import merge
from shards.layout import Layout
from tests.commands import ROOT, command, succeed, write_config
from tests.conftest import tiny_tree
from tests.fakes.places import PLACES, Place
from tests.processes import is_at_work, wait_until
from tests.torture.trials import tree_hash

MIN_SHARDS = 20
NUM_SHARDS = 22  # of three clips each, the last of one
COMMITS_BEFORE_THE_KILL = 3
RUN_LIMIT_S = 120.0
END_LIMIT_S = 20.0
LOOPBACK = {"127.0.0.1", "::1"}


def config_of(clips: Path, run: Path, place: Place) -> Path:
    over = {"shards": {"min_shards": MIN_SHARDS}, "cluster": place.config}
    return write_config(run.with_suffix(".yaml"), merge(tiny_tree(clips, run), over))


def commits(run: Path) -> list[Path]:
    return list(Layout(run).commits("shard", "default").glob("[0-9]*.json"))


def listening(processes: list[psutil.Process]) -> set[str]:
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add(connection.laddr.ip)
    return found


@contextmanager
def driving(config: Path) -> Iterator[subprocess.Popen[str]]:
    driver = subprocess.Popen(
        command("pipeline", "shard", config),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with driver:
            yield driver
    finally:
        driver.kill()


@pytest.fixture(scope="module")
def expected(made_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tree hash of an inline run."""
    run = tmp_path_factory.mktemp("expected") / "run"
    succeed("pipeline", "shard", config_of(made_clips, run, Place({"kind": "inline"})))
    assert len(commits(run)) == NUM_SHARDS
    return tree_hash(run)


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    directory = tmp_path / "a place"
    directory.mkdir()
    with PLACES[request.param](directory) as place:
        yield place


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(
    place: Place, made_clips: Path, expected: str, tmp_path: Path
) -> None:
    run = tmp_path / "a run"
    with driving(config_of(made_clips, run, place)) as driver:
        wait_until(lambda: len(commits(run)) >= COMMITS_BEFORE_THE_KILL, "commits", RUN_LIMIT_S)
        victims = place.workers(driver.pid)[:1]
        for victim in victims:
            victim.kill()
        seen = place.processes(driver.pid)
        assert listening(seen) <= LOOPBACK
        printed, _ = driver.communicate(timeout=RUN_LIMIT_S)
    assert driver.returncode == 0, printed
    assert victims or place.config["kind"] == "inline", "no worker was killed"
    assert len(commits(run)) == NUM_SHARDS
    assert tree_hash(run) == expected
    ours = [*seen, *place.processes(driver.pid)] if place.is_ours else victims
    wait_until(lambda: not any(map(is_at_work, ours)), "the end of every process", END_LIMIT_S)
