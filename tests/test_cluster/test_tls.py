"""Beyond loopback there is TLS, or nothing: who has no key, or another one, is refused."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from distributed import Client

from cluster.client import connect
from cluster.launch import open_client
from cluster.submit import run_tasks
from cluster.tls import Keys, cluster_keys, make_keys, require_safe
from configs.cluster import ClusterConfig
from configs.errors import ClusterFailed, InputError
from tests.dask_processes import scheduler, worker


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("ours") / "keys")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("theirs") / "keys")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("tls")
    with (
        scheduler(directory, keys) as (_, where),
        worker(directory, where, "only", keys),
    ):
        yield where


def test_who_has_the_key_works(address: str, keys: Keys, tmp_path: Path) -> None:
    tls = {"ca": keys.ca, "cert": keys.cert, "key": keys.key}
    config = ClusterConfig.model_validate(
        {"kind": "address", "address": {"scheduler": address}, "tls": tls}
    )
    with open_client(config, tmp_path) as client:
        outcomes = list(run_tasks(client(), abs, {"abs-0": -3}))
    assert [outcome.result for outcome in outcomes] == [3]


def test_keys_that_a_killed_process_left_are_swept(tmp_path: Path) -> None:
    config = ClusterConfig(kind="slurm")
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = socket.gethostname()
    kept = [f"keys-{host}-{os.getpid()}-0a", f"keys-elsewhere-{ended.pid}-0a", "keys-of-mine"]
    for name in (*kept, f"keys-{host}-{ended.pid}-0a"):
        make_keys(tmp_path / name)
    with cluster_keys(config, tmp_path) as made:
        assert made is not None
        names = {path.name for path in tmp_path.glob("keys-*")}
        assert names == {*kept, made.key.parent.name}
    assert {path.name for path in tmp_path.glob("keys-*")} == set(kept)


def test_a_plain_client_is_refused(address: str) -> None:
    plain = address.replace("tls://", "tcp://")
    with pytest.raises(OSError, match="imed out|closed|connect"):
        Client(plain, timeout=3)


def test_a_client_of_another_authority_is_refused(address: str, strangers: Keys) -> None:
    with pytest.raises(OSError, match="imed out|certificate|closed"):
        Client(address, security=strangers.security(), timeout=3)


def test_a_refused_client_is_told_in_one_line(address: str, strangers: Keys) -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "3s"}),
        pytest.raises(ClusterFailed, match=f"no scheduler answers at {address}"),
    ):
        connect(address, strangers)


def test_an_address_with_tls_wants_keys(keys: Keys) -> None:
    config = ClusterConfig(kind="address")
    with pytest.raises(InputError, match="wants certificates"):
        require_safe("tls://192.0.2.7:8786", None, config)
    require_safe("tls://192.0.2.7:8786", keys, config)


@pytest.mark.parametrize("where", ["tcp://192.0.2.7:8786", "tcp://0.0.0.0:8786"])
def test_plain_tcp_beyond_this_machine_wants_a_word(where: str) -> None:
    with pytest.raises(InputError, match="anyone who reaches it can run code"):
        require_safe(where, None, ClusterConfig(kind="address"))
    require_safe(where, None, ClusterConfig(kind="address", insecure=True))


@pytest.mark.parametrize("where", ["tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1"])
def test_plain_tcp_on_loopback_is_fine(where: str) -> None:
    require_safe(where, None, ClusterConfig(kind="address"))


def test_keys_are_for_this_user_only_and_go_with_the_cluster(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with cluster_keys(ClusterConfig(kind="slurm"), tmp_path) as made:
            assert made is not None
            for path in {made.ca, made.cert, made.key}:
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(made.key.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_insecure_is_a_word_of_its_own(tmp_path: Path) -> None:
    with cluster_keys(ClusterConfig(kind="slurm", insecure=True), tmp_path) as made:
        assert made is None
