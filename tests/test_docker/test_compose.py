"""docker/compose.yaml: what it opens and locks, and its commands as processes of this machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dask.config import collect_env, get

from cluster.settings import settings
from configs.cluster import ClusterConfig
from tests.commands import ROOT, data_files, write_config
from tests.conftest import tiny_tree
from tests.test_docker.dockerfile import Stage

COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SCHEDULER_PORT, DASHBOARD_PORT = "8786", "8787"
START_LIMIT_S = 60.0


def test_only_the_dashboard_is_open_and_only_to_this_machine() -> None:
    opened = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert set(opened) == {"scheduler"}
    assert all(port.startswith("127.0.0.1:") for port in opened["scheduler"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_locked(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "1000:1000"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert not {"privileged", "cap_add", "pid", "ipc"} & set(service)
    assert service.get("network_mode") in {None, "none"}


def test_keys_are_made_first_and_read_only_after() -> None:
    assert SERVICES["keys"]["volumes"] == ["keys:/keys"]
    users = [one for name, one in SERVICES.items() if name not in {"keys", "trainer"}]
    assert all("keys:/keys:ro" in one["volumes"] for one in users)


def test_scheduler_and_workers_talk_tls_only() -> None:
    for name in ("scheduler", "worker"):
        tree = collect_env(SERVICES[name]["environment"])
        assert get("distributed.comm.require-encryption", config=tree) is True


def test_the_images_hold_our_settings_of_dask() -> None:
    tree = yaml.safe_load((ROOT / "docker" / "dask.yaml").read_text())
    ours = settings(ClusterConfig())
    assert {key: get(key, "not set", config=tree) for key in ours} == ours


@pytest.mark.slow
def test_dask_finds_our_settings_in_an_image(worker_image: Stage) -> None:
    code = (
        "import dask.config, distributed; from cluster.settings import settings as of; "
        "from configs.cluster import ClusterConfig; ours = of(ClusterConfig()); "
        "assert {key: dask.config.get(key, 'not set') for key in ours} == ours"
    )
    done = worker_image.run("python", "-c", code)
    assert done.returncode == 0, done.stderr


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@dataclass(frozen=True)
class Rehearsal:
    """The services' commands, with this machine in place of the containers."""

    image: Stage
    config: Path
    ports: dict[str, str]

    def words(self, name: str) -> list[str]:
        return [self._here(word, name) for word in SERVICES[name]["command"]]

    def environment(self, name: str) -> dict[str, str]:
        own = SERVICES[name].get("environment", {})
        return self.image.environment_here() | {k: self._here(v, name) for k, v in own.items()}

    def _here(self, word: str, name: str) -> str:
        word = re.sub(r"\$\{CONFIG:-[^}]*\}", str(self.config), word)
        word = word.replace("scheduler:", "127.0.0.1:").replace("0.0.0.0", "127.0.0.1")
        word = re.sub(rf"\b{SCHEDULER_PORT}\b", self.ports["tls"], word)
        return self.image.moved(re.sub(rf"\b{DASHBOARD_PORT}\b", self.ports[name], word))

    def finish(self, name: str) -> None:
        """Run a service that ends, as `service_completed_successfully` wants it."""
        done = subprocess.run(
            self.words(name),
            cwd=self.image.directory,
            env=self.environment(name),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def started(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a service that stays, from the moment when it is healthy."""
        process = subprocess.Popen(
            self.words(name), cwd=self.image.directory, env=self.environment(name)
        )
        try:
            deadline_s = time.monotonic() + START_LIMIT_S
            while not self.is_healthy(name, process):
                assert process.poll() is None, f"{name} ended"
                assert time.monotonic() < deadline_s, f"{name} is not healthy in time"
                time.sleep(0.2)
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(timeout=60)

    def is_healthy(self, name: str, process: subprocess.Popen[bytes]) -> bool:
        words = ("python", "docker/healthy.py", str(process.pid), self.ports[name])
        return self.image.run(*words).returncode == 0


@pytest.fixture(scope="module")
def rehearsal(worker_image: Stage, made_clips: Path, tmp_path_factory: Any) -> Rehearsal:
    place = tmp_path_factory.mktemp("compose")
    tree = tiny_tree(made_clips, place / "run") | {"cluster": {}}
    (worker_image.root / "keys").mkdir()
    ports = {name: free_port() for name in ("tls", *SERVICES)}
    return Rehearsal(worker_image, write_config(place / "config.yaml", tree), ports)


@pytest.mark.slow
def test_the_commands_make_what_one_process_makes(rehearsal: Rehearsal) -> None:
    rehearsal.finish("keys")
    rehearsal.finish("keys")  # a second start makes no others
    key = rehearsal.image.root / "keys" / "dask" / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with ExitStack() as stack:
        scheduler = stack.enter_context(rehearsal.started("scheduler"))
        worker = stack.enter_context(rehearsal.started("worker"))
        rehearsal.finish("driver")
        freezing_is_noticed(rehearsal, scheduler)
        scheduler.kill()
        assert worker.wait(timeout=90) == 0
    run = rehearsal.config.parent / "run"
    alone = rehearsal.config.parent / "alone"
    words = ("pipeline", "all", str(rehearsal.config), f"run={alone}", "cluster.kind=inline")
    assert rehearsal.image.run("python", "-m", *words).returncode == 0
    assert data_files(run) == data_files(alone)


def freezing_is_noticed(rehearsal: Rehearsal, scheduler: subprocess.Popen[bytes]) -> None:
    assert rehearsal.is_healthy("scheduler", scheduler)
    os.kill(scheduler.pid, signal.SIGSTOP)
    assert not rehearsal.is_healthy("scheduler", scheduler)
    os.kill(scheduler.pid, signal.SIGCONT)
