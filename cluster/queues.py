"""Workers as jobs of a batch system, which dask-jobqueue submits, with the scheduler here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client
from distributed.core import Status

from cluster.extra import extra, one_line
from cluster.jobs import LOGS, SYSTEMS, job_options, num_jobs, protocol, section_of
from cluster.replacement import Arrivals, ReplaceLost
from cluster.settings import ANY_LOOPBACK_PORT
from cluster.tls import Keys, cluster_keys
from configs.cluster import ClusterConfig
from configs.console import counted, say
from configs.errors import ClusterFailed

CHECK = "1s"  # between looks at which jobs are alive


@contextmanager
def queue(config: ClusterConfig, home: Path) -> Iterator[Client]:
    """Jobs of SLURM or PBS. A lost job is replaced; all are cancelled at the end."""
    with (
        cluster_keys(config, home) as keys,
        dask.config.set(keys.dask_settings() if keys else {}),
        _closing(_scheduler(config, home, keys)) as cluster,
    ):
        _submit(cluster, config)
        jobs = num_jobs(config)
        say(_submitted_line(config, jobs))
        cluster.adapt(
            Adaptive=ReplaceLost,
            interval=CHECK,
            minimum_jobs=jobs,
            maximum_jobs=jobs,
            list_jobs=SYSTEMS[config.kind].list_jobs,
        )
        with Client(cluster) as client:
            yield client


def _submitted_line(config: ClusterConfig, jobs: int) -> str:
    """Jobs are whole: what was asked for may be less than what comes."""
    each, asked = section_of(config).workers_per_job, config.workers
    line = f"{counted(jobs, 'job')} of {counted(each, 'worker')} submitted"
    if asked is None or asked == jobs * each:
        return line
    return f"{line}: cluster.workers={asked} is no whole number of jobs"


def _scheduler(config: ClusterConfig, home: Path, keys: Keys | None) -> Any:
    """A scheduler in this process, without a job yet. It has its keys from Dask's settings."""
    system, home = SYSTEMS[config.kind], home.absolute()
    module = extra("dask_jobqueue")
    (home / LOGS).mkdir(parents=True, exist_ok=True)
    options = {
        "port": 0,
        "protocol": protocol(keys),
        "dashboard_address": ANY_LOOPBACK_PORT,
        "plugins": [Arrivals()],
    }
    try:
        return getattr(module, system.cluster)(
            scheduler_options=options,
            silence_logs=logging.CRITICAL,
            job_cls=_remembering(getattr(module, system.cluster).job_cls),
            **job_options(config, home, keys),
        )
    except (RuntimeError, ValueError) as error:
        interface = section_of(config).interface
        where = f"interface {interface}" if interface else "this machine"
        raise ClusterFailed(f"no scheduler on {where}: {one_line(error)}") from None


def _remembering(job_class: Any) -> Any:
    """The same job, but it knows why it was refused: later than at the start, Dask tells nobody."""

    class Remembering(job_class):  # type: ignore[misc]
        refusal = ""

        async def start(self) -> None:
            try:
                await super().start()
            except (RuntimeError, ValueError, OSError) as error:
                self.refusal = _words_of(error)
                raise

    return Remembering


def _words_of(error: Exception) -> str:
    """What the batch system itself said."""
    return one_line(str(error).partition("stderr:")[2] or str(error))


@contextmanager
def _closing(cluster: Any) -> Iterator[Any]:
    try:
        yield cluster
    finally:
        for job in cluster.workers.values():  # Dask asserts that, and dask-jobqueue never says it
            job.status = Status.closing
        cluster.close()


def _submit(cluster: Any, config: ClusterConfig) -> None:
    """Submit all jobs; raises ClusterFailed with the words of the batch system."""
    try:
        cluster.sync(_submitted, cluster, num_jobs(config))
    except (RuntimeError, ValueError, OSError) as error:
        raise ClusterFailed(
            f"{SYSTEMS[config.kind].submit} took no job: {_words_of(error)}; mend "
            f"cluster.{config.kind} (`python -m cluster script CONFIG` prints the job)"
        ) from None


async def _submitted(cluster: Any, jobs: int) -> None:
    for _ in range(jobs):
        cluster.worker_spec.update(cluster.new_worker_spec())
    await cluster
