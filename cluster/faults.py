"""What keeps a place from being opened, as far as this machine can tell before it starts anything
there: all of it in one message, so that a config is mended once."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from cluster.address import where
from cluster.jobs import SYSTEMS, lifetime, section_of
from cluster.pods import missing_from
from cluster.ssh import known_hosts
from cluster.tls import given_keys
from configs.cluster import ClusterConfig
from configs.errors import ConfigError, InputError

Faults = Iterator[str]

NEEDS = {  # modules of the extra `cluster`
    "ssh": "asyncssh",
    "slurm": "dask_jobqueue",
    "pbs": "dask_jobqueue",
    "kubernetes": "dask_kubernetes",
}


def require_sound(config: ClusterConfig, home: Path) -> None:
    """Raises ConfigError with every fault of the config's place; `home` lies below the run."""
    faults = [*_extra_faults(config), *FAULTS[config.kind](config, home)]
    if faults:
        raise ConfigError(f"cluster.kind={config.kind}", faults)


def _extra_faults(config: ClusterConfig) -> Faults:
    module = NEEDS.get(config.kind)
    if module and find_spec(module) is None:
        yield f"it needs the package {module}: pip install '.[cluster]'"


def _no_faults(_: ClusterConfig, __: Path) -> Faults:
    return iter(())


def _address_faults(config: ClusterConfig, home: Path) -> Faults:
    yield from _tls_faults(config)
    try:
        where(config, home)
    except InputError as error:
        yield str(error)


def _ssh_faults(config: ClusterConfig, _: Path) -> Faults:
    section = config.ssh
    if not section.hosts:
        yield "cluster.ssh.hosts names no host"
    files = {"known_hosts": known_hosts(section), "private_key": section.private_key}
    for name, path in files.items():
        if path is not None and not path.is_file():
            yield f"cluster.ssh.{name}: there is no file {path}"
    yield from _tls_faults(config)


def _queue_faults(config: ClusterConfig, _: Path) -> Faults:
    submit, section = SYSTEMS[config.kind].submit, section_of(config)
    if shutil.which(submit) is None:
        yield (
            f"there is no {submit} on PATH: run this where jobs are submitted, or take another kind"
        )
    known = [name for _, name in socket.if_nameindex()]
    if section.interface not in (None, *known):
        yield (
            f"cluster.{config.kind}.interface: there is no {section.interface} here, only "
            f"{', '.join(known)}"
        )
    try:
        lifetime(section)
    except InputError as error:
        yield f"cluster.{config.kind}: {error}"
    yield from _tls_faults(config)


def _kubernetes_faults(config: ClusterConfig, home: Path) -> Faults:
    mount = config.kubernetes.mount
    yield from missing_from(config)
    if not home.absolute().is_relative_to(mount):
        yield (
            f"run: {home.parent} is not below {mount}, where pods see the volume "
            "(cluster.kubernetes.mount)"
        )


def _tls_faults(config: ClusterConfig) -> Faults:
    """Of the files that `cluster.tls` names: there, PEM, and a pair."""
    keys = given_keys(config)
    if keys is None:
        return
    paths = {"ca": keys.ca, "cert": keys.cert, "key": keys.key}
    absent = {name for name, path in paths.items() if not path.is_file()}
    for name in sorted(absent):
        yield f"cluster.tls.{name}: there is no file {paths[name]}"
    junk = {name for name in {"ca", "cert"} - absent if not _holds_certificate(paths[name])}
    for name in sorted(junk):
        yield f"cluster.tls.{name}: {paths[name]} holds no certificate in PEM"
    if not {"cert", "key"} & (absent | junk) and not _is_pair(keys.cert, keys.key):
        yield (
            f"cluster.tls.key: {keys.key} is not the key of {keys.cert}, or wants a password, or "
            "is no PEM"
        )


def _holds_certificate(path: Path) -> bool:
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError):  # ssl's own are OSErrors
        return False
    return True


def _is_pair(cert: Path, key: Path) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError):
        return False
    return True


FAULTS: dict[str, Callable[[ClusterConfig, Path], Faults]] = {
    "inline": _no_faults,
    "local": _no_faults,
    "address": _address_faults,
    "ssh": _ssh_faults,
    "slurm": _queue_faults,
    "pbs": _queue_faults,
    "kubernetes": _kubernetes_faults,
}
