"""The place where tasks run: opened late, on loopback only, and gone without a trace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client

from cluster.launch import open_client
from cluster.settings import num_workers
from configs.cluster import ClusterConfig

LOCAL = ClusterConfig(kind="local", workers=2)


def children() -> set[int]:
    """Child processes that do work: Python's own resource tracker stays till the end."""
    alive = psutil.Process().children(recursive=True)
    return {child.pid for child in alive if "resource_tracker" not in " ".join(child.cmdline())}


def listening_addresses() -> set[str]:
    """Where this process and its children listen for connections."""
    here = psutil.Process()
    return {
        connection.laddr.ip
        for process in [here, *here.children(recursive=True)]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.fixture(scope="module")
def before() -> set[int]:
    return children()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def opened(before: set[int], place: Path) -> Iterator[Callable[[], Client]]:
    with open_client(LOCAL, place) as client:
        yield client
    assert children() == before, "a process was left behind"


def test_inline_needs_no_process(before: set[int], place: Path) -> None:
    with open_client(ClusterConfig(kind="inline"), place) as client:
        assert client() is None
        assert children() == before


def test_nothing_opens_before_it_is_asked_for(before: set[int], place: Path) -> None:
    sockets = listening_addresses()
    with open_client(LOCAL, place):
        assert children() == before
        assert listening_addresses() == sockets
    assert children() == before


def test_workers_are_processes_with_one_thread(opened: Callable[[], Client]) -> None:
    client = opened()
    assert list(client.nthreads().values()) == [1, 1]
    assert os.getpid() not in client.run(os.getpid).values()
    assert len(children()) >= 2


def test_the_client_is_opened_once(opened: Callable[[], Client]) -> None:
    assert opened() is opened()


def test_everything_listens_on_loopback(opened: Callable[[], Client]) -> None:
    opened()
    assert listening_addresses() == {"127.0.0.1"}


def test_an_error_inside_leaves_no_process_behind(before: set[int], place: Path) -> None:
    known = children()
    with pytest.raises(KeyboardInterrupt), open_client(LOCAL, place) as client:
        stop_with(client())
    assert children() == known


def stop_with(client: Client) -> None:
    assert client.submit(abs, -1).result() == 1
    raise KeyboardInterrupt


def test_the_number_of_workers_is_one_a_core_unless_told() -> None:
    assert num_workers(LOCAL) == 2
    assert num_workers(ClusterConfig()) == len(os.sched_getaffinity(0))
