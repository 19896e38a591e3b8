"""Jobs on a scheduler that somebody else started: lost schedulers, drivers, workers and links; and
clusters that stand between commands."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cluster.tls import Keys
from tests.commands import ROOT, command, run, succeed
from tests.dask_processes import QUICK, scheduler, worker
from tests.processes import is_at_work, wait_until
from tests.torture.job import committed, small_job
from tests.torture.trials import tree_hash

pytestmark = pytest.mark.slow

CLIPS, SHARDS = 80, 20


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of 20 shards, about a twentieth of a second each."""
    return small_job(tmp_path_factory.mktemp("job"), CLIPS, SHARDS, seconds=5.0)


@pytest.fixture(scope="module")
def expected(config: Path) -> str:
    """The tree of an inline run."""
    directory = config.parent / "inline"
    succeed("pipeline", "shard", config, f"run={directory}")
    return tree_hash(directory)


@contextmanager
def driver(config: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """`pipeline shard` in the background."""
    process = subprocess.Popen(
        command("pipeline", "shard", config, *overrides),
        cwd=ROOT,
        env={**os.environ, **QUICK},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def at(address: str, keys: Keys | None = None) -> list[str]:
    words = ["cluster.kind=address", f"cluster.address.scheduler={address}"]
    if keys is not None:
        words += [f"cluster.tls={json.dumps({k: str(v) for k, v in vars(keys).items()})}"]
    return words


def ended(process: subprocess.Popen[str], limit_s: float = 120.0) -> tuple[int, str]:
    said, _ = process.communicate(timeout=limit_s)
    return process.returncode, said


def test_a_lost_scheduler_ends_the_driver_and_the_same_command_goes_on(
    config: Path, expected: str, tmp_path: Path
) -> None:
    run_directory = tmp_path / "run"
    with scheduler(tmp_path) as (process, address), worker(tmp_path, address, "a"):
        with driver(config, f"run={run_directory}", *at(address)) as job:
            wait_until(lambda: len(committed(run_directory)) >= 2, "a shard")
            process.process.kill()
            lost_s = time.monotonic()
            code, said = ended(job)
            assert time.monotonic() - lost_s < 60
        assert code == 75, said
        assert "the scheduler is gone" in said
        assert "Traceback" not in said
    before = committed(run_directory)
    again_s = time.monotonic()
    with scheduler(tmp_path) as (_, address), worker(tmp_path, address, "b"):
        with driver(config, f"run={run_directory}", *at(address)) as job:
            wait_until(lambda: len(committed(run_directory)) > len(before), "work")
            assert time.monotonic() - again_s < 60
            code, said = ended(job)
        assert code == 0, said
    assert tree_hash(run_directory) == expected
    assert before.items() <= committed(run_directory).items(), "a committed shard was made again"


def test_a_lost_driver_leaves_nothing_that_stops_the_next(
    config: Path, expected: str, tmp_path: Path
) -> None:
    run_directory = tmp_path / "run"
    with scheduler(tmp_path) as (_, address), worker(tmp_path, address, "a") as slow:
        with driver(config, f"run={run_directory}", *at(address)) as job:
            wait_until(lambda: len(committed(run_directory)) >= 2, "a shard")
            slow.workers[0].suspend()  # or the job would be done before the second one begins
            second = run("pipeline", "shard", config, f"run={run_directory}", *at(address))
            assert (second.returncode, f"pid {job.pid} on" in second.stderr) == (1, True)
            job.kill()
            job.wait()
            slow.workers[0].resume()
        code = run("pipeline", "shard", config, f"run={run_directory}", *at(address)).returncode
        assert code == 0
    assert tree_hash(run_directory) == expected


# --- a cluster that stands -------------------------------------------------------------------


def keeper_family(run_directory: Path) -> list[psutil.Process]:
    standing = json.loads((run_directory / "cluster/standing.json").read_text())
    keeper = psutil.Process(standing["pid"])
    return [keeper, *keeper.children(recursive=True)]


def test_a_cluster_outlives_the_command_that_made_it(
    config: Path, expected: str, tmp_path: Path
) -> None:
    run_directory = tmp_path / "run"
    place = f"run={run_directory}"
    said = succeed("cluster", "up", config, place, "cluster.kind=local", "cluster.workers=2")
    family = keeper_family(run_directory)
    try:
        assert "local cluster at tcp://127.0.0.1:" in said
        assert "stands already" in succeed("cluster", "up", config, place, "cluster.kind=local")
        assert "2 workers, 0 tasks" in succeed("cluster", "status", run_directory)
        succeed("pipeline", "shard", config, place, "cluster.kind=address")
        assert tree_hash(run_directory) == expected
        assert all(process.is_running() for process in family)
        assert "ended" in succeed("cluster", "down", run_directory)
        assert not [process for process in family if is_at_work(process)]
    finally:
        for process in family:
            if is_at_work(process):
                process.kill()
    assert "no cluster stands" in succeed("cluster", "status", run_directory)
    assert "nothing to do" in succeed("cluster", "down", run_directory)


def test_a_keeper_that_was_killed_is_cleared_up(config: Path, tmp_path: Path) -> None:
    run_directory = tmp_path / "run"
    place = f"run={run_directory}"
    succeed("cluster", "up", config, place, "cluster.kind=local", "cluster.workers=1")
    keeper, *others = keeper_family(run_directory)
    keeper.kill()
    keeper.wait(20)
    status = run("cluster", "status", run_directory)
    assert status.returncode == 1
    assert "its keeper is gone" in status.stderr
    job = run("pipeline", "shard", config, place, "cluster.kind=address")
    assert job.returncode == 1
    assert "has lost its keeper" in job.stderr
    assert "then `up`" in job.stderr
    _, alive = psutil.wait_procs(others, timeout=60)
    assert not alive, "its workers end by themselves"
    assert "was gone" in succeed("cluster", "down", run_directory)
    job = run("pipeline", "shard", config, place, "cluster.kind=address")
    assert job.returncode == 2
    assert "no cluster stands" in job.stderr


def test_a_cluster_that_cannot_start_says_why(config: Path, tmp_path: Path) -> None:
    place = f"run={tmp_path / 'run'}"
    nothing = run("cluster", "up", config, place, "cluster.kind=inline")
    assert nothing.returncode == 2
    assert "cluster.kind=inline: no cluster of that kind can stand by itself" in nothing.stderr


def test_an_address_where_nobody_answers(config: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        soon = "cluster.dask.distributed.comm.timeouts.connect=3s"
        done = run("pipeline", "shard", config, f"run={tmp_path / 'run'}", *at(address), soon)
    assert done.returncode == 1
    assert f"no scheduler answers at {address}" in done.stderr
    assert "Traceback" not in done.stderr
