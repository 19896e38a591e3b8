"""What a batch system is told about a job of Dask workers. Pure: nothing is started here."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask

from cluster.command import dashboard_words, resource_words
from cluster.settings import DEATH_TIMEOUT_S, environment, num_workers, settings
from cluster.tls import Keys
from configs.cluster import ClusterConfig, QueueSection
from configs.errors import InputError

JOB_NAME = "audiolex"
STAGGER_SHARE = 0.05  # of a job's time, by which workers end apart from each other
LOGS = "logs"


@dataclass(frozen=True)
class BatchSystem:
    """One batch system: dask-jobqueue's names for it, and its own language."""

    cluster: str
    job: str
    submit: str
    directives: Callable[[QueueSection, Path], list[str]]
    walltime: Callable[[str], str]
    log: Callable[[Path], str]  # where a job's output goes, below a home
    list_jobs: Callable[[Sequence[str]], list[str]]  # the command that lists jobs by number


def slurm_directives(section: QueueSection, home: Path) -> list[str]:
    """The warning goes to the batch shell, which is the worker by then. A requeued job adds to
    the log of its first try."""
    return [
        "--requeue",
        "--open-mode=append",
        f"--signal=B:TERM@{section.grace_s}",
        f"--output={slurm_log(home)}",
    ]


def slurm_log(home: Path) -> str:
    """SLURM puts name and number of the job in; a % of the path itself it wants twice."""
    return quoted(str(home / LOGS).replace("%", "%%") + "/%x-%j.log")


def pbs_directives(_: QueueSection, home: Path) -> list[str]:
    """PBS knows no warning before the end of a job: the worker's lifetime is the only one."""
    return ["-r y", "-S /bin/bash", "-j oe", f"-o {pbs_log(home)}"]


def pbs_log(home: Path) -> str:
    """In a directory PBS names the files itself."""
    return quoted(f"{home / LOGS}/")


def pbs_walltime(walltime: str) -> str:
    """PBS counts hours, not days."""
    minutes, seconds = divmod(seconds_of(walltime), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"


def squeue(jobs: Sequence[str]) -> list[str]:
    return ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(jobs)}"]


def qstat(jobs: Sequence[str]) -> list[str]:
    return ["qstat", *jobs]


SYSTEMS: dict[str, BatchSystem] = {
    "slurm": BatchSystem(
        "SLURMCluster", "SLURMJob", "sbatch", slurm_directives, str, slurm_log, squeue
    ),
    "pbs": BatchSystem(
        "PBSCluster", "PBSJob", "qsub", pbs_directives, pbs_walltime, pbs_log, qstat
    ),
}


def section_of(config: ClusterConfig) -> QueueSection:
    return config.slurm if config.kind == "slurm" else config.pbs


def num_jobs(config: ClusterConfig) -> int:
    return math.ceil(num_workers(config) / section_of(config).workers_per_job)


def job_options(config: ClusterConfig, home: Path, keys: Keys | None) -> dict[str, Any]:
    """Keywords of dask-jobqueue's classes for one job. Workers learn where the keys lie from their
    environment: the command line of dask-jobqueue would not survive a blank in a path."""
    system, section = SYSTEMS[config.kind], section_of(config)
    memory = dask.utils.parse_bytes(section.memory_per_worker) * section.workers_per_job
    return {
        "job_name": JOB_NAME,
        "queue": section.queue,
        "account": section.account,
        "walltime": system.walltime(section.walltime),
        "cores": section.workers_per_job,
        "processes": section.workers_per_job,
        "memory": f"{memory}B",
        "interface": section.interface,
        "protocol": protocol(keys),
        "python": f"exec {shlex.quote(section.python or sys.executable)}",
        "death_timeout": DEATH_TIMEOUT_S,
        "worker_extra_args": _worker_arguments(config, section),
        "job_extra_directives": [*system.directives(section, home), *section.directives],
        "job_script_prologue": _prologue(config, section, keys),
    }


def protocol(keys: Keys | None) -> str:
    return "tcp://" if keys is None else "tls://"


def _worker_arguments(config: ClusterConfig, section: QueueSection) -> list[str]:
    lifetime_s, stagger_s = lifetime(section)
    words = ["--lifetime", f"{lifetime_s}s", "--lifetime-stagger", f"{stagger_s}s"]
    words += [*dashboard_words(), *resource_words(config.worker_resources)]
    return [shlex.quote(word) for word in words]


def lifetime(section: QueueSection) -> tuple[int, int]:
    """Seconds after which a worker goes, and by how many that varies either way, so that not all go
    at once: before the warning comes. The task in its hands is begun again elsewhere."""
    usable_s = seconds_of(section.walltime) - section.grace_s
    if usable_s <= 0:
        raise InputError(
            f"a walltime of {section.walltime} leaves nothing beside grace_s={section.grace_s}: "
            "ask for a longer one"
        )
    stagger_s = int(usable_s * STAGGER_SHARE)
    return usable_s - stagger_s, stagger_s


def seconds_of(walltime: str) -> int:
    days, _, clock = walltime.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _prologue(config: ClusterConfig, section: QueueSection, keys: Keys | None) -> list[str]:
    here = f"cd {shlex.quote(str(Path.cwd()))} || exit"
    return [here, *exports(config, keys), *section.prologue]


def exports(config: ClusterConfig, keys: Keys | None) -> list[str]:
    """Dask's settings in a shell."""
    told = settings(config) | (keys.dask_settings() if keys else {})
    pairs = sorted(environment(told).items())
    return [f"export {name}={shlex.quote(value)}" for name, value in pairs]


def quoted(path: str) -> str:
    """For a directive, which no shell reads: batch systems know double quotes."""
    return f'"{path}"' if " " in path else path
