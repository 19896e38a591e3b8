"""What a batch system is told about a job of workers, as text."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import pytest

from cluster.extra import extra
from cluster.jobs import SYSTEMS, job_options, lifetime, num_jobs, pbs_walltime, seconds_of
from cluster.settings import environment, settings
from cluster.tls import Keys
from configs.cluster import ClusterConfig, QueueSection
from configs.errors import ClusterFailed, InputError
from tests.fakes import batch_system

KINDS = ("slurm", "pbs")
PLACE = Path("/runs/my run/cluster")
KEYS = Keys(PLACE / "keys/cert.pem", PLACE / "keys/cert.pem", PLACE / "keys/key.pem")


def config_of(kind: str, section: dict[str, Any], **over: Any) -> ClusterConfig:
    return ClusterConfig.model_validate({"kind": kind, kind: section, **over})


def job_of(config: ClusterConfig, place: Path = PLACE, keys: Keys | None = KEYS) -> str:
    system = SYSTEMS[config.kind]
    job = getattr(extra(f"dask_jobqueue.{config.kind}"), system.job)
    script = job("tls://1.2.3.4:5", name="n", **job_options(config, place, keys)).job_script()
    return str(script)


def directives(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith(("#SBATCH", "#PBS"))]


def worker_words(script: str) -> list[str]:
    return shlex.split(script.strip().splitlines()[-1])


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_a_slurm_job_as_a_whole() -> None:
    section = {
        "queue": "cpu",
        "account": "audio",
        "walltime": "1-00:00:00",
        "workers_per_job": 2,
        "memory_per_worker": "4GiB",
        "directives": ["--gres=gpu:1"],
    }
    assert directives(job_of(config_of("slurm", section))) == [
        "#SBATCH -J audiolex",
        "#SBATCH -p cpu",
        "#SBATCH -A audio",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --mem=8G",
        "#SBATCH -t 1-00:00:00",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:TERM@120",
        '#SBATCH --output="/runs/my run/cluster/logs/%x-%j.log"',
        "#SBATCH --gres=gpu:1",
    ]


def test_a_pbs_job_as_a_whole() -> None:
    section = {"queue": "cpu", "walltime": "1-00:00:00", "workers_per_job": 4}
    assert directives(job_of(config_of("pbs", section))) == [
        "#PBS -N audiolex",
        "#PBS -q cpu",
        "#PBS -l select=1:ncpus=4:mem=16GB",
        "#PBS -l walltime=24:00:00",
        "#PBS -r y",
        "#PBS -S /bin/bash",
        "#PBS -j oe",
        '#PBS -o "/runs/my run/cluster/logs/"',
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_worker_takes_the_place_of_the_shell(kind: str) -> None:
    section = {"workers_per_job": 3, "interface": "ib0", "python": "/my venv/bin/python"}
    words = worker_words(job_of(config_of(kind, section, worker_resources={"GPU": 1, "RAM": 2e9})))
    assert words[:5] == [
        *("exec", "/my venv/bin/python", "-m", "distributed.cli.dask_worker", "tls://1.2.3.4:5"),
    ]
    wanted = {
        "--nthreads": "1",
        "--nworkers": "3",
        "--death-timeout": "60",
        "--dashboard-address": "127.0.0.1:0",
        "--resources": "GPU=1 RAM=2e+09",
        "--interface": "ib0",
        "--protocol": "tls://",
        "--memory-limit": "4.00GiB",
    }
    assert {name: option(words, name) for name in wanted} == wanted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("walltime", "grace_s"), [("04:00:00", 120), ("00:05:00", 30)])
def test_a_worker_goes_before_the_warning_comes(kind: str, walltime: str, grace_s: int) -> None:
    section = {"walltime": walltime, "grace_s": grace_s}
    words = worker_words(job_of(config_of(kind, section)))
    life, stagger = (
        int(option(words, name).removesuffix("s")) for name in ("--lifetime", "--lifetime-stagger")
    )
    assert 0 < stagger < life
    assert life + stagger <= seconds_of(walltime) - grace_s
    assert life - stagger >= 0.85 * (seconds_of(walltime) - grace_s)


def test_a_wall_time_within_the_grace_is_refused() -> None:
    with pytest.raises(InputError, match=r"00:02:00 leaves nothing beside grace_s=120"):
        lifetime(QueueSection(walltime="00:02:00"))


@pytest.mark.parametrize(
    ("walltime", "seconds", "of_pbs"),
    [("00:00:09", 9, "00:00:09"), ("2-01:02:03", 176523, "49:02:03"), ("100:00:00", 360000, None)],
)
def test_wall_times(walltime: str, seconds: int, of_pbs: str | None) -> None:
    assert seconds_of(walltime) == seconds
    assert pbs_walltime(walltime) == (of_pbs or walltime)


@pytest.mark.parametrize(
    ("workers", "per_job", "jobs"), [(None, 1, 4), (None, 3, 2), (64, 8, 8), (1, 8, 1)]
)
def test_the_number_of_jobs(workers: int | None, per_job: int, jobs: int) -> None:
    assert num_jobs(config_of("pbs", {"workers_per_job": per_job}, workers=workers)) == jobs


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_named_by_path_and_only_in_the_environment(kind: str, tmp_path: Path) -> None:
    script = job_of(config_of(kind, {"prologue": ["umask 0027"]}))
    assert "BEGIN" not in script
    assert ".pem" not in script.splitlines()[-1]
    assert script.index("umask 0027") < script.index("exec ")
    words = "import dask; print(dask.config.get('distributed.comm.tls.worker.key'))"
    lines = [line for line in script.splitlines() if line.startswith("export ")]
    ask = shlex.join([sys.executable, "-c", words])
    done = subprocess.run(
        ["bash", "-c", "\n".join([*lines, ask])], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(KEYS.key)


@pytest.mark.parametrize("kind", KINDS)
def test_an_insecure_job_knows_no_keys(kind: str) -> None:
    script = job_of(config_of(kind, {}, insecure=True), keys=None)
    assert "TLS" not in script
    assert option(worker_words(script), "--protocol") == "tcp://"


def test_settings_come_back_from_the_environment_as_they_were() -> None:
    own = {
        "distributed": {
            "worker": {"memory": {"pause": 0.5}, "preload": ["a.py", "b"]},
            "nanny": {"pre-spawn-environ": {"OMP_NUM_THREADS": 2}},
            "comm": {"timeouts": {"connect": "7s"}},
        },
        "temporary-directory": "/a b",
        "x": {"number-as-text": "12", "nothing": None, "text": "none"},
    }
    told = settings(ClusterConfig(dask=own))
    found = dask.config.collect_env(environment(told))
    for name, value in told.items():
        assert dask.config.get(name, config=found) == value, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_fake_takes_the_job_as_it_stands(kind: str, tmp_path: Path) -> None:
    known, marker = (
        (batch_system.SLURM, "#SBATCH ") if kind == "slurm" else (batch_system.PBS, "#PBS ")
    )
    for line in directives(job_of(config_of(kind, {"queue": "q", "account": "a"}))):
        batch_system.parsed(line.removeprefix(marker), known)
    with pytest.raises(SystemExit, match="unrecognized option '--sygnal'"):
        batch_system.parsed("--sygnal=B:TERM@120", known)
    with pytest.raises(SystemExit, match="does not take"):
        batch_system.parsed("-A" if kind == "pbs" else "--mem=8GiB", known)


def test_an_absent_extra_is_named() -> None:
    with pytest.raises(
        ClusterFailed, match=r"needs the package no_such.*pip install '\.\[cluster\]'"
    ):
        extra("no_such.module")
