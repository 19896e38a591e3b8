"""SSH: real keys and known_hosts, words for what is wrong, and nothing left without a driver."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest

from cluster.launch import open_client
from cluster.ssh import connect_options, python_command
from configs.cluster import ClusterConfig, SshSection
from configs.errors import ClusterFailed, InputError
from tests.commands import ROOT
from tests.fakes.places import Place, ssh
from tests.processes import command_of, is_at_work, wait_until

ORPHANED = {"audiolex": {"orphaned-after": "2s"}}
QUICK = {"distributed": {"comm": {"timeouts": {"connect": "3s"}}}}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    directory = tmp_path / "a place"
    directory.mkdir()
    with ssh(directory) as place:
        yield place


def config_in(place: Place, **over: Any) -> ClusterConfig:
    section = place.config["ssh"] | over
    return ClusterConfig.model_validate({"kind": "ssh", "ssh": section, "dask": ORPHANED | QUICK})


def message_of(config: ClusterConfig, directory: Path) -> str:
    with (
        pytest.raises((ClusterFailed, InputError)) as caught,
        open_client(config, directory) as opened,
    ):
        opened()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_host_with_another_key_is_refused(place: Place, tmp_path: Path) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{place.config['ssh']['port']} {other}")
    text = message_of(config_in(place, known_hosts=known), tmp_path)
    assert text.startswith(f"ssh 127.0.0.1: its key is not in {known} (Host key is not trusted")
    assert not list(tmp_path.glob("keys-*"))


def test_an_unknown_host_key_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    text = message_of(config_in(place, known_hosts=tmp_path / "empty"), tmp_path)
    assert "its key is not in" in text
    assert "compare the fingerprint" in text


def test_a_key_that_the_host_does_not_know(place: Place, tmp_path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / "other"))
    text = message_of(config_in(place, private_key=tmp_path / "other"), tmp_path)
    assert text.startswith("ssh 127.0.0.1: Permission denied for user")
    assert "cluster.ssh.username or .private_key" in text


def test_a_host_that_nobody_knows(place: Place, tmp_path: Path) -> None:
    text = message_of(config_in(place, hosts=["no-such-host.invalid"]), tmp_path)
    assert text.startswith("ssh no-such-host.invalid: there is no such host (")
    assert text.endswith("mend cluster.ssh.hosts")


def test_a_port_where_nobody_listens(place: Place, tmp_path: Path) -> None:
    text = message_of(config_in(place, port=1), tmp_path)
    assert text.startswith("ssh 127.0.0.1: no connection (")


def test_a_python_that_is_not_there(place: Place, tmp_path: Path) -> None:
    text = message_of(config_in(place, python="/no/python"), tmp_path)
    assert "/no/python: not found; hosts need this directory and its Python" in text


def test_host_keys_are_always_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even `UserKnownHostsFile none` in ~/.ssh/config turns that off."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").touch()
    assert connect_options(SshSection())["known_hosts"] == str(tmp_path / ".ssh" / "known_hosts")


def test_a_directory_with_a_blank_survives_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path / "a b")
    line = f"{python_command(SshSection())} -c 'import os; print(os.getcwd())'"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == str(tmp_path / "a b")


DRIVER = """
import sys, time
from pathlib import Path
from cluster.launch import open_client
from configs.cluster import ClusterConfig
config = ClusterConfig.model_validate_json(sys.argv[1])
with open_client(config, Path(sys.argv[2])) as opened:
    opened().wait_for_workers(2)
    print("ready", flush=True)
    sys.stdin.readline()
"""


def start_driver(place: Place, directory: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", DRIVER, config_in(place).model_dump_json(), str(directory)]
    pipe = subprocess.PIPE
    driver = subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert driver.stdout is not None
    while "ready" not in (line := driver.stdout.readline()):
        assert line, driver.communicate()[1]
    return driver


def on_hosts(place: Place) -> list[psutil.Process]:
    """What the server runs: nothing below the driver."""
    return [found for found in place.processes(0) if is_at_work(found)]


@pytest.mark.slow
def test_hosts_are_left_alone_after_a_driver_that_was_killed(place: Place, tmp_path: Path) -> None:
    with start_driver(place, tmp_path / "run") as driver:
        started = on_hosts(place)
        assert len(place.workers(0)) == 2
        driver.kill()
    wait_until(lambda: not any(map(is_at_work, started)), "the end on all hosts", 60)


@pytest.mark.slow
def test_a_lost_scheduler_does_not_keep_the_driver(place: Place, tmp_path: Path) -> None:
    with start_driver(place, tmp_path / "run") as driver:
        started = on_hosts(place)
        schedulers = [found for found in started if "distributed.Scheduler" in command_of(found)]
        for process in schedulers:
            process.kill()
        _, printed = driver.communicate("go\n", timeout=60)
    assert driver.returncode == 0, printed
    assert "Traceback" not in printed
    wait_until(lambda: not any(map(is_at_work, started)), "the end on all hosts", 90)


@pytest.mark.slow
def test_several_hosts(place: Place, tmp_path: Path) -> None:
    known = Path(place.config["ssh"]["known_hosts"])
    known.write_text(known.read_text() + known.read_text().replace("[127.0.0.1]", "\n[localhost]"))
    hosts = config_in(place, hosts=["127.0.0.1", "localhost"], workers_per_host=1)
    with open_client(hosts, tmp_path / "run") as opened:
        client = opened()
        assert client is not None
        client.wait_for_workers(2, timeout=60)
        logs = {path.name for path in (tmp_path / "run" / "logs").iterdir()}
        assert logs == {"ssh-scheduler.log", "ssh-workers-0.log", "ssh-workers-1.log"}
        assert sorted(client.run(abs, -1).values()) == [1, 1]
    wait_until(lambda: not on_hosts(place), "the end on all hosts", 60)


@pytest.mark.slow
def test_logs_and_keys(place: Place, tmp_path: Path) -> None:
    """Keys travel as paths: none on a command line, none left."""
    with open_client(config_in(place), tmp_path / "run") as opened:
        client = opened()
        assert client is not None
        client.wait_for_workers(2, timeout=60)
        assert str(client.scheduler_info()["address"]).startswith("tls://127.0.0.1:")
        assert client.submit(abs, -1).result() == 1
        lines = [command_of(process) for process in on_hosts(place)]
        assert not any("PRIVATE" in line for line in lines)
        assert len(list((tmp_path / "run").glob("keys-*"))) == 1
    assert not list((tmp_path / "run").glob("keys-*"))
    names = {path.name for path in (tmp_path / "run" / "logs").iterdir()}
    assert names == {"ssh-scheduler.log", "ssh-workers-0.log"}
