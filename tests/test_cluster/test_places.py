"""What keeps a place from being opened is found before anything is started: all of it at once."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.faults import require_sound
from cluster.launch import open_client
from cluster.tls import Keys, make_keys
from configs.cluster import ClusterConfig
from configs.errors import ConfigError
from configs.load import load_config
from tests.commands import ROOT, run, write_config
from tests.conftest import tiny_tree

DEMO = ROOT / "configs" / "demo.yaml"
NOWHERE = "/no/such.pem"
BATCH = {"slurm": "sbatch", "pbs": "qsub"}


def config_of(kind: str, **sections: Any) -> ClusterConfig:
    return ClusterConfig.model_validate({"kind": kind, **sections})


def faults_of(config: ClusterConfig, home: Path) -> list[str]:
    """By opening it, as a command does."""
    with pytest.raises(ConfigError) as caught, open_client(config, home) as opened:
        opened()
    assert list(home.parent.iterdir()) == [], "something was made"
    return list(caught.value.faults)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "cluster"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make_keys(tmp_path / "keys")


@pytest.fixture
def command_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def put(name: str) -> None:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    return put


def test_kubernetes(home: Path) -> None:
    volume, secret, run = faults_of(config_of("kubernetes"), home)
    assert volume.startswith("cluster.kubernetes.volume_claim: name the claim")
    assert "kubectl create secret generic audiolex-tls" in secret
    assert run == (
        f"run: {home.parent} is not below /data, where pods see the volume "
        "(cluster.kubernetes.mount)"
    )


@pytest.mark.parametrize("kind", BATCH)
def test_batch_systems(home: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    section = {"interface": "ib77", "walltime": "00:01:00"}
    tls = dict.fromkeys(("ca", "cert", "key"), NOWHERE)
    command, interface, walltime, *files = faults_of(
        config_of(kind, tls=tls, **{kind: section}), home
    )
    assert command.startswith(f"there is no {BATCH[kind]} on PATH")
    assert interface.startswith(f"cluster.{kind}.interface: there is no ib77 here, only ")
    assert socket.if_nameindex()[0][1] in interface
    assert walltime.startswith(f"cluster.{kind}: a walltime of 00:01:00 leaves nothing")
    assert files == [f"cluster.tls.{name}: there is no file {NOWHERE}" for name in tls]


def test_ssh(home: Path) -> None:
    section = {"known_hosts": NOWHERE, "private_key": NOWHERE}
    assert faults_of(config_of("ssh", ssh=section), home) == [
        "cluster.ssh.hosts names no host",
        f"cluster.ssh.known_hosts: there is no file {NOWHERE}",
        f"cluster.ssh.private_key: there is no file {NOWHERE}",
    ]


@pytest.mark.parametrize(
    ("scheduler", "fault"),
    [
        (None, "no cluster stands in .*cluster up CONFIG"),
        ("tcp://192.0.2.7:8786", "anyone who reaches it can run code there"),
        ("tls://192.0.2.7:8786", "wants certificates"),
        ("tcp://no-such-host.invalid:8786", "there is no host no-such-host.invalid"),
    ],
)
def test_address(home: Path, scheduler: str | None, fault: str) -> None:
    config = config_of("address", address={"scheduler": scheduler})
    [found] = faults_of(config, home)
    assert re.search(fault, found)


@pytest.mark.parametrize("junk", ["ca", "cert", "key"])
def test_files_of_junk_are_named(
    home: Path, keys: Keys, junk: str, command_on_path: Callable[[str], None]
) -> None:
    command_on_path("sbatch")
    path = keys.key.with_name("junk.pem")
    path.write_text("no PEM at all\n")
    tls = {name: getattr(keys, name) for name in ("ca", "cert", "key")}
    require_sound(config_of("slurm", tls=tls), home)
    [fault] = faults_of(config_of("slurm", tls=tls | {junk: path}), home)
    assert fault.startswith(f"cluster.tls.{junk}: {path} ")


def test_a_key_of_another_certificate(
    home: Path, keys: Keys, command_on_path: Callable[[str], None]
) -> None:
    command_on_path("sbatch")
    other = make_keys(keys.key.parent / "other")
    tls = {"ca": keys.ca, "cert": keys.cert, "key": other.key}
    [fault] = faults_of(config_of("slurm", tls=tls), home)
    assert fault.startswith(f"cluster.tls.key: {other.key} is not the key of {keys.cert}")


def test_a_missing_package_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.faults.find_spec", lambda module: None)
    [fault, *_] = faults_of(config_of("ssh"), home)
    assert fault == "it needs the package asyncssh: pip install '.[cluster]'"


def test_a_command_says_so_before_it_plans(tmp_path: Path) -> None:
    config = write_config(tmp_path / "a.yaml", tiny_tree(tmp_path, tmp_path / "run"))
    for words in (["pipeline", "shard"], ["cluster", "up"]):
        done = run(*words, config, "cluster.kind=ssh", f"cluster.ssh.known_hosts={NOWHERE}")
        assert done.returncode == 2
        assert done.stderr.startswith("error: cluster.kind=ssh: 2 faults\n")
    assert not (tmp_path / "run" / "plan.json").exists()


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("cluster.slurm.walltime=4h", "walltime: must be hours:minutes:seconds, as 04:00:00"),
        ("cluster.memory_limit=4G", "must be auto, or a size with its unit, as 4GiB"),
        ("cluster.slurm.memory_per_worker=4", "must be a size with its unit, as 4GiB or 500MB"),
        ("cluster.address.scheduler=node1", "must be protocol, host and port"),
        ("cluster.kubernetes.memory_per_worker=4GB", "must be a quantity of Kubernetes"),
        ("cluster.kubernetes.name=My_Cluster", "must be at most 45 small letters"),
    ],
)
def test_texts_of_the_wrong_form_are_told_the_right_one(override: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(fault)):
        load_config(DEMO, [override])


def test_forms_that_people_write() -> None:
    words = ["cluster.ssh.hosts=one,two", "cluster.slurm.walltime=24:00:00"]
    cluster = load_config(DEMO, words).cluster
    assert cluster.ssh.hosts == ("one", "two")
    assert cluster.slurm.walltime == "24:00:00"
