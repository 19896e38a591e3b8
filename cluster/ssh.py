"""Scheduler and workers on hosts that SSH reaches, started by Dask's SSHCluster."""

from __future__ import annotations

import asyncio
import logging
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
from distributed import Client, SSHCluster

from cluster.client import connect
from cluster.extra import extra, one_line
from cluster.settings import ANY_LOOPBACK_PORT, DEATH_TIMEOUT_S, LOOPBACK
from cluster.tls import Keys, cluster_keys
from configs.cluster import ClusterConfig, SshSection
from configs.errors import ClusterFailed

CONNECT_LIMIT_S = 20
LOOK_LIMIT_S = 60  # for Python there to begin
KEEPALIVE_S = 30
LOOPBACK_HOSTS = {"localhost", LOOPBACK}
IN_DIRECTORY = 'cd "$0" && exec "$@"'  # a login shell begins in the home directory


@contextmanager
def ssh(config: ClusterConfig, home: Path) -> Iterator[Client]:
    """The first host holds the scheduler, and every host `workers_per_host` workers. They see what
    this machine sees under the same paths, and end by themselves if this process cannot end them.
    """
    section = config.ssh
    with cluster_keys(config, home) as keys, dask.config.set(_inherited(keys)):
        options = connect_options(section)
        asyncio.run(_look_at_all(section, options))
        cluster = _start(config, options, keys)
        try:
            cluster.sync(_keep_logs, cluster, home)
            with connect(cluster.scheduler_address, keys) as client:
                yield client
        finally:
            _close(cluster)


def _inherited(keys: Keys | None) -> dict[str, Any]:
    """Settings here that SSHCluster hands to the hosts with all others: of keys, their paths."""
    told = {"distributed.scheduler.preload": ["cluster.orphan"]}
    return told | (keys.dask_settings() if keys else {})


def connect_options(section: SshSection) -> dict[str, Any]:
    """What asyncssh is told: hosts' keys are always checked, whatever ~/.ssh/config says."""
    given = {
        "username": section.username,
        "port": section.port,
        "client_keys": section.private_key and [str(section.private_key)],
    }
    return {
        "known_hosts": str(known_hosts(section)),
        "connect_timeout": CONNECT_LIMIT_S,
        "keepalive_interval": KEEPALIVE_S,
        **{name: value for name, value in given.items() if value is not None},
    }


def known_hosts(section: SshSection) -> Path:
    return section.known_hosts or Path.home() / ".ssh" / "known_hosts"


async def _look_at_all(section: SshSection, options: Mapping[str, Any]) -> None:
    """Raises ClusterFailed for the first host that would not do: SSHCluster's own errors do not
    say which one it was."""
    hosts = dict.fromkeys(section.hosts)
    await asyncio.gather(*(_look_at(host, section, options) for host in hosts))


async def _look_at(host: str, section: SshSection, options: Mapping[str, Any]) -> None:
    asyncssh = extra("asyncssh")
    try:
        async with asyncssh.connect(host, **options) as connection:
            words = f"{python_command(section)} -c 'import cluster.orphan'"
            done = await connection.run(words, timeout=LOOK_LIMIT_S)
    except (OSError, ValueError, asyncssh.Error) as error:
        raise ClusterFailed(f"ssh {host}: {_cure(asyncssh, error, options)}") from None
    if done.exit_status != 0:
        words = one_line(done.stderr).rpartition("; ")[2] or "the connection was lost"
        raise ClusterFailed(
            f"ssh {host}: {words}; hosts need this directory and its Python (cluster.ssh.python)"
        )


def _cure(asyncssh: Any, error: Exception, options: Mapping[str, Any]) -> str:
    words = one_line(error) or type(error).__name__
    if isinstance(error, socket.gaierror):
        return f"there is no such host ({words}); mend cluster.ssh.hosts"
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return (
            f"its key is not in {options['known_hosts']} ({words}); log in once with `ssh`, and "
            "compare the fingerprint"
        )
    if isinstance(error, asyncssh.TimeoutError):
        return f"Python did not begin within {LOOK_LIMIT_S} s; is a disk stuck there?"
    if isinstance(error, asyncssh.PermissionDenied):
        return f"{words}; `ssh-copy-id`, or another cluster.ssh.username or .private_key"
    return f"no connection ({words}); is sshd there, at cluster.ssh.port?"


def python_command(section: SshSection) -> str:
    """Python in this directory on a host, as words of a shell."""
    python = section.python or sys.executable
    return shlex.join(["sh", "-c", IN_DIRECTORY, str(Path.cwd()), python])


def _start(config: ClusterConfig, options: Mapping[str, Any], keys: Keys | None) -> Any:
    section = config.ssh
    shared = shared_options(config, keys)
    try:
        return SSHCluster(
            [section.hosts[0], *section.hosts],
            connect_options=dict(options),
            scheduler_options={**shared, "port": 0},
            worker_options={**shared, **_worker_options(config)},
            remote_python=python_command(section),
            silence_logs=logging.CRITICAL,
        )
    except Exception as error:  # SSHCluster raises plain ones
        raise ClusterFailed(
            f"ssh: Dask did not start on {', '.join(section.hosts)}: {one_line(error)}"
        ) from None


def shared_options(config: ClusterConfig, keys: Keys | None) -> dict[str, Any]:
    """Of scheduler and workers. Hosts that are all this machine need no other network."""
    where = {"host": LOOPBACK} if LOOPBACK_HOSTS.issuperset(config.ssh.hosts) else {}
    scheme = "tcp://" if keys is None else "tls://"
    return {"protocol": scheme, "dashboard_address": ANY_LOOPBACK_PORT, **where}


def _worker_options(config: ClusterConfig) -> dict[str, Any]:
    return {
        "n_workers": config.ssh.workers_per_host,
        "nthreads": 1,
        "memory_limit": config.memory_limit,
        "resources": dict(config.worker_resources),
        "death_timeout": DEATH_TIMEOUT_S,
    }


def _close(cluster: Any) -> None:
    try:
        cluster.close()
    except OSError:  # the scheduler is gone, which Dask would ask to let the workers go
        for worker in cluster.workers.values():
            with suppress(OSError):
                cluster.sync(worker.close)


async def _keep_logs(cluster: Any, home: Path) -> None:
    """What hosts print goes to files: in a pipe that nobody reads it would stop them one day."""
    logs = home.absolute() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    remotes = {"scheduler": cluster.scheduler} | {
        f"workers-{number}": worker for number, worker in cluster.workers.items()
    }
    for name, remote in remotes.items():
        await remote.proc.redirect(stderr=str(logs / f"ssh-{name}.log"))
