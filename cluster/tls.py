"""Who may talk to a cluster: whoever holds its key. Anyone who can connect to a Dask scheduler runs
code there, so that beyond loopback there is TLS, or nothing without `insecure: true`.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Security

from configs.cluster import ClusterConfig
from configs.errors import ClusterFailed, InputError
from configs.processes import is_alive

SECRET_MODE, SECRET_DIRECTORY_MODE = 0o600, 0o700
ROLES = ("client", "scheduler", "worker")


@dataclass(frozen=True)
class Keys:
    """PEM files of one authority: all roles show the same certificate, which it signed."""

    ca: Path
    cert: Path
    key: Path

    def security(self) -> Security:
        files: dict[str, Any] = {"tls_ca_file": str(self.ca)}
        for role in ROLES:
            files |= {f"tls_{role}_cert": str(self.cert), f"tls_{role}_key": str(self.key)}
        return Security(require_encryption=True, **files)

    def dask_settings(self) -> dict[str, Any]:
        """The same for processes that are told by their Dask config."""
        settings: dict[str, Any] = {"distributed.comm.tls.ca-file": str(self.ca)}
        for role in ROLES:
            settings[f"distributed.comm.tls.{role}.cert"] = str(self.cert)
            settings[f"distributed.comm.tls.{role}.key"] = str(self.key)
        return {
            **settings,
            "distributed.comm.require-encryption": True,
            "distributed.comm.default-scheme": "tls",
        }


def given_keys(config: ClusterConfig) -> Keys | None:
    """The certificates that the config names."""
    if config.tls is None:
        return None
    return Keys(*(path.absolute() for path in (config.tls.ca, config.tls.cert, config.tls.key)))


@contextmanager
def cluster_keys(config: ClusterConfig, home: Path) -> Iterator[Keys | None]:
    """The keys of a cluster beyond loopback: those given, or made for as long as it lives (below
    `home`, for the eyes of this user only); None with `insecure`."""
    keys = given_keys(config)
    if keys is not None or config.insecure:
        yield keys
        return
    _sweep(home)
    directory = (
        home.absolute() / f"keys-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    )
    try:
        yield make_keys(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _sweep(home: Path) -> None:
    """Remove the keys of processes of this host that were killed."""
    for directory in home.glob(f"keys-{socket.gethostname()}-*"):
        pid = directory.name.rsplit("-", 2)[1]
        if pid.isdecimal() and not is_alive(int(pid)):
            shutil.rmtree(directory, ignore_errors=True)


def make_keys(directory: Path) -> Keys:
    """A new self-signed certificate that is its own authority, or the one that was made there."""
    keys = Keys(directory / "cert.pem", directory / "cert.pem", directory / "key.pem")
    if keys.cert.is_file() and keys.key.is_file():
        return keys
    try:
        made = Security.temporary()
    except ImportError:
        raise ClusterFailed(
            "TLS needs the package `cryptography`: install the extra `cluster`, or give "
            "certificates of your own (cluster.tls)"
        ) from None
    directory.mkdir(parents=True, mode=SECRET_DIRECTORY_MODE, exist_ok=True)
    _write_secret(keys.key, made.tls_client_key)
    _write_secret(keys.cert, made.tls_client_cert)
    return keys


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)


def require_safe(address: str, keys: Keys | None, config: ClusterConfig) -> None:
    """Raises InputError for a TLS address without keys, and for a plain one beyond loopback unless
    the config insists on it."""
    scheme, _, rest = address.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    if scheme == "tls" and keys is None:
        raise InputError(f"{address} wants certificates: give cluster.tls.ca, .cert and .key")
    if scheme == "tls" or config.insecure or _is_loopback(host):
        return
    raise InputError(
        f"{address} is plain TCP beyond this machine: anyone who reaches it can run code there. "
        "Use a tls:// address with cluster.tls.ca, .cert and .key, or say cluster.insecure=true"
    )


def _is_loopback(host: str) -> bool:
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):  # the latter for a name that no host can have
        raise InputError(f"cluster.address.scheduler: there is no host {host}") from None
    return all(ipaddress.ip_address(str(ip).partition("%")[0]).is_loopback for ip in found)
