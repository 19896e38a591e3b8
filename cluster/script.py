"""What `python -m cluster script` prints: what would be submitted, or the commands that do by hand
what a launcher does by itself. Nothing is started here."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from cluster.address import where
from cluster.command import dashboard_words, worker_words
from cluster.extra import extra
from cluster.jobs import SYSTEMS, exports, job_options, protocol
from cluster.pods import cluster_spec
from cluster.settings import LOOPBACK, num_workers
from cluster.ssh import LOOPBACK_HOSTS
from cluster.tls import Keys, given_keys
from cluster.training import training_script
from cluster.verbs import home_of
from configs.cluster import ClusterConfig
from configs.errors import ClusterFailed, InputError
from configs.schema import Config

PORT = 8786
MAKE_KEYS = "from pathlib import Path; from cluster.tls import make_keys; make_keys(Path({!r}))"


def script(config: Config) -> str:
    """Scripts, YAML or commands for the config's kind; what only a run knows is in capitals."""
    return SCRIPTS[config.cluster.kind](config)


def _inline(_: Config) -> str:
    note = "# Nothing to submit: tasks run in the command itself."
    return _text(note, _shard("cluster.kind=inline"))


def _batch(config: Config) -> str:
    return _text(_worker_job(config), "", _training(config))


def _worker_job(config: Config) -> str:
    """From the class that submits it."""
    cluster, home = config.cluster, home_of(config)
    keys = _keys(cluster, home / "keys-OF-THE-RUN")
    module, system = extra(f"dask_jobqueue.{cluster.kind}"), SYSTEMS[cluster.kind]
    job = getattr(module, system.job)(
        f"{protocol(keys)}SCHEDULER:PORT", name="NAME", **job_options(cluster, home, keys)
    )
    shebang, _, rest = job.job_script().partition("\n")
    note = "# A job of workers. Commands submit it themselves, with what is in capitals filled in."
    return _text(shebang, note, rest.strip())


def _training(config: Config) -> str:
    return training_script(config.cluster, config.run.absolute(), home_of(config)).rstrip()


def _kubernetes(config: Config) -> str:
    note = "# Commands create this themselves; by hand: kubectl create -f FILE"
    return _text(note, yaml.safe_dump(cluster_spec(config.cluster), sort_keys=False).rstrip())


def _local(config: Config) -> str:
    cluster = config.cluster
    scheduler = f"tcp://{LOOPBACK}:{PORT}"
    return _text(
        "# Commands start these processes themselves. By hand:",
        *exports(cluster, None),
        f"{_scheduler_words(cluster, None, LOOPBACK)} &",
        f"{_worker_words(cluster, scheduler, num_workers(cluster), LOOPBACK)} &",
        _shard("cluster.kind=address", f"cluster.address.scheduler={scheduler}"),
    )


def _address(config: Config) -> str:
    """More workers for a scheduler that somebody else started, or that stands in the run."""
    cluster, home = config.cluster, home_of(config)
    notes = ["# The scheduler is there; on each host, workers for it:"]
    told: list[str] = []
    try:
        scheduler, keys = where(cluster, home)
    except (InputError, ClusterFailed) as error:
        scheduler, keys = cluster.address.scheduler or "tls://SCHEDULER:PORT", given_keys(cluster)
        notes.insert(0, f"# {error}")
    if cluster.address.scheduler is not None:
        told = [f"cluster.address.scheduler={scheduler}", *_safety(cluster, keys)]
    return _text(
        *notes,
        *exports(cluster, keys),
        f"{_worker_words(cluster, scheduler, num_workers(cluster), None)} &",
        _shard("cluster.kind=address", *told),
    )


def _safety(cluster: ClusterConfig, keys: Keys | None) -> list[str]:
    """The overrides that let a command talk to a scheduler with these keys."""
    if keys is not None:
        return [f"cluster.tls.{name}={getattr(keys, name)}" for name in ("ca", "cert", "key")]
    return ["cluster.insecure=true"] if cluster.insecure else []


def _ssh(config: Config) -> str:
    cluster, directory = config.cluster, home_of(config) / "keys"
    keys = _keys(cluster, directory)
    hosts = cluster.ssh.hosts or ("HOST",)
    listen = LOOPBACK if LOOPBACK_HOSTS.issuperset(hosts) else None
    scheduler = f"{protocol(keys)}{hosts[0]}:{PORT}"
    workers = _worker_words(cluster, scheduler, cluster.ssh.workers_per_host, listen)
    told = [f"cluster.address.scheduler={scheduler}", *_safety(cluster, keys)]
    making = []
    if keys is not None and cluster.tls is None:
        making = [shlex.join([sys.executable, "-c", MAKE_KEYS.format(str(directory))])]
    return _text(
        "# Commands start these themselves. By hand:",
        *making,
        _over_ssh(cluster, hosts[0], keys, _scheduler_words(cluster, keys, listen)),
        *(_over_ssh(cluster, host, keys, workers) for host in hosts),
        _shard("cluster.kind=address", *told),
    )


def _over_ssh(cluster: ClusterConfig, host: str, keys: Keys | None, words: str) -> str:
    section = cluster.ssh
    given = {
        "-l": section.username,
        "-p": section.port,
        "-i": section.private_key,
        "-o": section.known_hosts and f"UserKnownHostsFile={section.known_hosts}",
    }
    options = [f"{flag} {shlex.quote(str(value))}" for flag, value in given.items() if value]
    return _text(
        f"{' '.join(['ssh', *options, shlex.quote(host)])} sh -s << 'END' &",
        f"cd {shlex.quote(str(Path.cwd()))} || exit",
        *exports(cluster, keys),
        f"exec {words}",
        "END",
    ).rstrip()


def _keys(cluster: ClusterConfig, directory: Path) -> Keys | None:
    """Those given, or where those made will be."""
    if cluster.insecure:
        return None
    cert = directory / "cert.pem"
    return given_keys(cluster) or Keys(cert, cert, directory / "key.pem")


def _scheduler_words(cluster: ClusterConfig, keys: Keys | None, listen: str | None) -> str:
    words = [*_dask(cluster, "scheduler"), "--port", str(PORT), "--protocol", protocol(keys)]
    return shlex.join([*words, *dashboard_words(), *_host(listen)])


def _worker_words(cluster: ClusterConfig, scheduler: str, workers: int, listen: str | None) -> str:
    words = [*_dask(cluster, "worker"), scheduler, "--nworkers", str(workers), *_host(listen)]
    return shlex.join([*words, *worker_words(cluster.memory_limit, cluster.worker_resources)])


def _dask(cluster: ClusterConfig, command: str) -> list[str]:
    elsewhere = cluster.ssh.python if cluster.kind == "ssh" else None
    return [elsewhere or sys.executable, "-m", f"distributed.cli.dask_{command}"]


def _host(listen: str | None) -> list[str]:
    return [] if listen is None else ["--host", listen]


def _shard(*overrides: str) -> str:
    """CONFIG stands for what the reader gave to this command."""
    return shlex.join([sys.executable, "-m", "pipeline", "shard", "CONFIG", *overrides])


def _text(*lines: str) -> str:
    return "\n".join(lines) + "\n"


SCRIPTS: dict[str, Callable[[Config], str]] = {
    "inline": _inline,
    "local": _local,
    "address": _address,
    "ssh": _ssh,
    "slurm": _batch,
    "pbs": _batch,
    "kubernetes": _kubernetes,
}
