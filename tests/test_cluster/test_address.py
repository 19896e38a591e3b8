"""Jobs on a scheduler that somebody else started: lost schedulers, drivers, workers and links; and
clusters that stand between commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.tls import Keys, make_keys
from tests.commands import ROOT, command, run, succeed
from tests.dask_processes import QUICK, Started, scheduler, worker
from tests.torture.job import committed, small_job
from tests.torture.trials import tree_hash

pytestmark = pytest.mark.slow

CLIPS, SHARDS = 160, 20


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of 20 shards, about a tenth of a second each."""
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


def wait_until(is_so: Callable[[], Any], what: str, limit_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


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
            wait_until(lambda: len(committed(run_directory)) >= 2, "no shard came")
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
            wait_until(lambda: len(committed(run_directory)) > len(before), "no work was done")
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
            wait_until(lambda: len(committed(run_directory)) >= 2, "no shard came")
            slow.workers[0].suspend()  # or the job would be done before the second one begins
            second = run("pipeline", "shard", config, f"run={run_directory}", *at(address))
            assert (second.returncode, f"pid {job.pid} on" in second.stderr) == (1, True)
            job.kill()
            job.wait()
            slow.workers[0].resume()
        code = run("pipeline", "shard", config, f"run={run_directory}", *at(address)).returncode
        assert code == 0
    assert tree_hash(run_directory) == expected


@pytest.mark.parametrize("whom", ["worker", "nanny", "both"])
def test_a_worker_that_is_told_to_go_or_killed_loses_nothing(
    config: Path, expected: str, tmp_path: Path, whom: str
) -> None:
    """SIGTERM to the nanny is what a batch system does before the wall time; SIGKILL to the whole
    group is a node that fails."""
    run_directory = tmp_path / "run"
    with (
        scheduler(tmp_path) as (_, address),
        worker(tmp_path, address, "stays"),
        worker(tmp_path, address, "goes") as goes,
        driver(config, f"run={run_directory}", *at(address)) as job,
    ):
        wait_until(lambda: len(committed(run_directory)) >= 2, "no shard came")
        end(goes, whom)
        code, said = ended(job)
    assert code == 0, said
    assert tree_hash(run_directory) == expected


def end(started: Started, whom: str) -> None:
    if whom == "worker":
        started.workers[0].kill()
    elif whom == "nanny":
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(30) is not None
    else:
        os.killpg(started.process.pid, signal.SIGKILL)


# --- two hosts -------------------------------------------------------------------------------

NAMESPACE, LINK = f"lex{os.getpid() % 10_000}", f"lx{os.getpid() % 10_000}"
HERE, THERE = "10.231.7.1", "10.231.7.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def other_host() -> Iterator[Sequence[str]]:
    """A network namespace with one link to this one; the words that run a command in it."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs `ip` (iproute2) and root")
    try:
        ip("netns", "add", NAMESPACE)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine makes no network namespaces: {error.stderr!r}")
    try:
        ip("link", "add", f"{LINK}a", "type", "veth", "peer", "name", f"{LINK}b")
        ip("link", "set", f"{LINK}b", "netns", NAMESPACE)
        ip("addr", "add", f"{HERE}/30", "dev", f"{LINK}a")
        ip("link", "set", f"{LINK}a", "up")
        ip("-n", NAMESPACE, "addr", "add", f"{THERE}/30", "dev", f"{LINK}b")
        ip("-n", NAMESPACE, "link", "set", f"{LINK}b", "up")
        ip("-n", NAMESPACE, "link", "set", "lo", "up")
        yield ["ip", "netns", "exec", NAMESPACE]
    finally:
        ip("netns", "del", NAMESPACE)
        subprocess.run(["ip", "link", "del", f"{LINK}a"], capture_output=True, check=False)


def test_a_link_that_is_cut_for_a_while(
    config: Path, expected: str, tmp_path: Path, other_host: Sequence[str]
) -> None:
    keys, run_directory = make_keys(tmp_path / "keys"), tmp_path / "run"
    with (
        scheduler(tmp_path, keys, host=HERE) as (_, address),
        worker(tmp_path, address, "near", keys),
        worker(tmp_path, address, "far", keys, prefix=other_host),
        driver(config, f"run={run_directory}", *at(address, keys)) as job,
    ):
        wait_until(lambda: names_at_work(run_directory) == {"near", "far"}, "they never worked")
        ip("-n", NAMESPACE, "link", "set", f"{LINK}b", "down")
        time.sleep(10)  # the time-to-live of a worker is 6 s
        ip("-n", NAMESPACE, "link", "set", f"{LINK}b", "up")
        code, said = ended(job)
    assert code == 0, said
    assert tree_hash(run_directory) == expected


def names_at_work(run_directory: Path) -> set[str]:
    path = run_directory / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return {event["name"] for event in events if event.get("event") == "start"}


# --- a cluster that stands -------------------------------------------------------------------


def keeper_family(run_directory: Path) -> list[psutil.Process]:
    standing = json.loads((run_directory / "cluster/standing.json").read_text())
    keeper = psutil.Process(standing["pid"])
    return [keeper, *keeper.children(recursive=True)]


def is_at_work(process: psutil.Process) -> bool:
    """Runs; one that has ended may wait for whoever inherited it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


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
    assert "starts nothing" in nothing.stderr


def test_an_address_where_nobody_answers(config: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = run("pipeline", "shard", config, f"run={tmp_path / 'run'}", *at(address))
    assert done.returncode == 1
    assert f"no scheduler answers at {address}" in done.stderr
    assert "Traceback" not in done.stderr
