"""What `python -m cluster up`, `status` and `down` do."""

from __future__ import annotations

from pathlib import Path

from distributed import Client

from cluster.client import ask, connect, workers_of
from cluster.faults import require_sound
from cluster.standing import (
    CONFIG_NAME,
    FILE_NAME,
    LOG_NAME,
    Standing,
    is_kept,
    read_standing,
    replace_text,
    settled,
    start_keeper,
    stop_keeper,
)
from configs.console import counted, say
from configs.errors import ClusterFailed, InputError
from configs.load import SAVED_NAME, dump_config, load_config
from configs.schema import Config

HOME = "cluster"  # below the run


def home_of(config: Config) -> Path:
    return config.run.absolute() / HOME


def up(config: Config) -> int:
    """Start a scheduler and workers that outlive the command: of the config's kind, or, where the
    run was last used with a cluster that stood in it, of that one's."""
    home = home_of(config)
    if config.cluster.kind == "address" and (home / CONFIG_NAME).exists():
        kind = load_config(home / CONFIG_NAME).cluster.kind
        section = config.cluster.model_copy(update={"kind": kind})
        config = config.model_copy(update={"cluster": section})
    if config.cluster.kind in ("inline", "address", "kubernetes"):
        raise InputError(
            f"cluster.kind={config.cluster.kind}: no cluster of that kind can stand by itself; say "
            "cluster.kind=local, ssh, slurm or pbs"
        )
    standing = settled(home)
    if standing is not None and not standing.is_kept_here:
        raise ClusterFailed(
            f"a cluster stands already, kept on {standing.host}: `python -m cluster down "
            f"{config.run}` ends it"
        )
    if is_kept(home):
        where = standing.address if standing else "an address that is not known yet"
        say(f"{config.run}: a cluster stands already, at {where}; `down` comes before another")
        return 0
    require_sound(config.cluster, home)
    standing = start_keeper(home, dump_config(config))
    _save(config)
    say(f"{standing.kind} cluster at {standing.address}, dashboard {standing.dashboard}")
    say(f"kept by pid {standing.pid} on {standing.host}, log {home / LOG_NAME}")
    say(f"use it: python -m pipeline shard {config.run} cluster.kind=address")
    return 0


def _save(config: Config) -> None:
    """So that the run is one: `status RUN` and `down RUN` work before a stage has."""
    path = config.run / SAVED_NAME
    if not path.exists():
        replace_text(path, dump_config(config))


def status(config: Config) -> int:
    """Show the cluster that stands in the run, and its workers."""
    home = home_of(config)
    standing = read_standing(home)
    if standing is None:
        say(f"{config.run}: no cluster stands; `python -m cluster up CONFIG` starts one")
        return 0
    say(f"{standing.kind} cluster at {standing.address} since {standing.started}")
    say(f"  dashboard {standing.dashboard}, kept by pid {standing.pid} on {standing.host}")
    if standing.is_kept_here and not is_kept(home):
        raise ClusterFailed(f"its keeper is gone: `python -m cluster down {config.run}` clears up")
    with connect(standing.address, standing.keys) as client:
        _say_workers(client)
    return 0


def _say_workers(client: Client) -> None:
    workers = workers_of(client)
    running = ask(client, "processing", workers=None)
    num_tasks = sum(map(len, running.values()))
    say(f"  {counted(len(workers), 'worker')}, {counted(num_tasks, 'task')} in their hands")
    for address, worker in workers.items():
        memory_mib = worker["metrics"].get("memory", 0) / 2**20
        limit_mib = worker["memory_limit"] / 2**20
        limit = f" of {limit_mib:.0f}" if limit_mib else ""
        say(
            f"    {worker['name']} on {worker['host']}: {counted(worker['nthreads'], 'thread')}, "
            f"{memory_mib:.0f}{limit} MiB, {counted(len(running.get(address, ())), 'task')}"
        )


def down(config: Config) -> int:
    """End the cluster that stands in the run, workers first."""
    home = home_of(config)
    standing = settled(home)
    if standing is None and not is_kept(home):
        say(f"{config.run}: no cluster stands, nothing to do")
        return 0
    if standing is None:
        raise ClusterFailed(f"{config.run}: a cluster is starting; see {home / LOG_NAME}")
    if not standing.is_kept_here:
        _shut_down(standing, home)
    elif not is_kept(home):
        (home / FILE_NAME).unlink(missing_ok=True)
        say(f"the keeper, pid {standing.pid}, was gone; its workers end by themselves")
        return 0
    elif not stop_keeper(home, standing):
        raise ClusterFailed(f"pid {standing.pid} does not end; see {home / LOG_NAME}")
    say(f"{standing.kind} cluster at {standing.address}: ended")
    return 0


def _shut_down(standing: Standing, home: Path) -> None:
    """From another host: the scheduler ends its workers, and the keeper sees it go. Where nobody
    answers, the host may be gone for good: what it left must not stop the next `up`."""
    if standing.is_on_loopback:
        raise ClusterFailed(
            f"a cluster stands on {standing.host}, and only there: run this on {standing.host}, or "
            f"remove {home / FILE_NAME} if that host is gone"
        )
    try:
        with connect(standing.address, standing.keys) as client:
            client.shutdown()
    except ClusterFailed as error:
        (home / FILE_NAME).unlink(missing_ok=True)
        say(f"{error}; {standing.host} seems to be gone, and with it the cluster: forgotten")
