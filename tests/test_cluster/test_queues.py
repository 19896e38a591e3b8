"""Batch systems: jobs that are lost come back, jobs end with their driver, and words of errors."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from cluster.launch import open_client
from cluster.submit import run_tasks
from configs.cluster import ClusterConfig
from configs.errors import ClusterFailed, InputError
from tests.commands import ROOT
from tests.fakes import batch_system
from tests.fakes.places import Place, on_fake_system
from tests.processes import of_groups, wait_until

SUBMIT = {"slurm": "sbatch", "pbs": "qsub"}
KINDS = tuple(SUBMIT)
SOON_S = 40.0


@pytest.fixture
def workers_per_job(system: Place) -> int:
    """Both ways that Dask sees jobs, once each."""
    return {"slurm": 1, "pbs": 2}[system.config["kind"]]


@pytest.fixture(params=KINDS)
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with on_fake_system(request.param, tmp_path) as place:
        yield place


def config_in(place: Place, workers_per_job: int = 1, **over: Any) -> ClusterConfig:
    kind = place.config["kind"]
    section = place.config[kind] | {"workers_per_job": workers_per_job}
    quick = {"distributed": {"deploy": {"lost-worker-timeout": "1s"}}}
    return ClusterConfig.model_validate(place.config | {kind: section, "dask": quick} | over)


def num_workers(client: Client) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


@pytest.mark.slow
def test_a_lost_job_is_replaced(system: Place, tmp_path: Path, workers_per_job: int) -> None:
    config = config_in(system, workers_per_job)
    with open_client(config, tmp_path / "a place") as opened:
        client = opened()
        assert client is not None
        wait_until(lambda: num_workers(client) == 2, "workers", SOON_S)
        before = system.groups()
        assert len(before) == 2 // workers_per_job
        os.killpg(before[0], signal.SIGKILL)
        wait_until(lambda: len(system.groups()) == len(before) + 1, "another job", SOON_S)
        wait_until(lambda: num_workers(client) == 2, "its workers", SOON_S)
        time.sleep(3)  # looks at idle workers
        assert num_workers(client) == 2
        assert len(system.groups()) == len(before) + 1
    wait_until(lambda: not of_groups(system.groups()), "the end of all jobs", SOON_S)
    assert not list((tmp_path / "a place").glob("keys-*"))
    assert list((tmp_path / "a place" / "logs").iterdir())


@pytest.mark.slow
def test_a_job_that_dies_before_its_worker_comes_is_replaced(
    system: Place, tmp_path: Path, workers_per_job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.replacement.ASK_EVERY_S", 2.0)
    with open_client(config_in(system, workers_per_job), tmp_path / "a place") as opened:
        client = opened()
        assert client is not None
        before = system.groups()
        assert num_workers(client) == 0
        os.killpg(before[0], signal.SIGKILL)
        wait_until(lambda: num_workers(client) == 2, "workers", SOON_S)
        assert len(system.groups()) == len(before) + 1
    wait_until(lambda: not of_groups(system.groups()), "the end of all jobs", SOON_S)


def failing_once(directory: Path, name: str, flag: Path) -> str:
    """A PATH on which a command fails while a file is there, which it removes."""
    path = directory / "busy" / name
    path.parent.mkdir()
    usual = shutil.which(name)
    path.write_text(
        f'#!/bin/sh\nrm "{flag}" 2>/dev/null || exec "{usual}" "$@"\n'
        f"echo '{name}: error: Socket timed out' >&2\nexit 1\n"
    )
    path.chmod(0o755)
    return f"{path.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.slow
def test_a_replacement_that_is_refused_comes_later(
    system: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    submit, flag = SUBMIT[system.config["kind"]], tmp_path / "flag"
    monkeypatch.setattr("cluster.replacement.ASK_EVERY_S", 2.0)
    monkeypatch.setenv("PATH", failing_once(tmp_path, submit, flag))
    with open_client(config_in(system), tmp_path / "a place") as opened:
        client = opened()
        assert client is not None
        wait_until(lambda: num_workers(client) == 2, "workers", SOON_S)
        flag.touch()
        os.killpg(system.groups()[0], signal.SIGKILL)
        wait_until(lambda: not flag.exists(), "a refusal", SOON_S)
        wait_until(lambda: len(system.groups()) == 3, "another job", SOON_S)
        wait_until(lambda: num_workers(client) == 2, "its worker", SOON_S)
    said = capsys.readouterr().out
    assert f"a lost job was not replaced: {submit}: error: Socket timed out; trying again" in said


def slow_double(number: int) -> int:
    time.sleep(0.5)
    return 2 * number


@pytest.mark.slow
@pytest.mark.parametrize("system", ["slurm"], indirect=True)
def test_jobs_whose_time_is_over_are_followed_by_others(system: Place, tmp_path: Path) -> None:
    """Workers go at the end of their lifetime, about 8 s here, and lose nothing."""
    kind = system.config["kind"]
    section = system.config[kind] | {"walltime": "00:00:12", "grace_s": 4}
    numbers = {f"task-{number}": number for number in range(40)}
    with open_client(config_in(system, **{kind: section}), tmp_path / "a place") as opened:
        outcomes = list(run_tasks(opened(), slow_double, numbers))
        assert len(system.groups()) > 2
    assert sorted(outcome.result or 0 for outcome in outcomes) == [2 * n for n in range(40)]
    assert [outcome.error for outcome in outcomes if outcome.error is not None] == []


DRIVER = """
import sys, time
from pathlib import Path
from cluster.launch import open_client
from configs.cluster import ClusterConfig
config = ClusterConfig.model_validate_json(sys.argv[1])
with open_client(config, Path(sys.argv[2])) as opened:
    opened().wait_for_workers(2)
    print("ready", flush=True)
    time.sleep(300)
"""


@pytest.mark.slow
def test_jobs_end_after_a_driver_that_was_killed(system: Place, tmp_path: Path) -> None:
    words = [sys.executable, "-c", DRIVER, config_in(system).model_dump_json(), str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        while "ready" not in (line := driver.stdout.readline()):
            assert line
        driver.kill()
    wait_until(lambda: not of_groups(system.groups()), "the end of all jobs", 90)


def test_jobs_are_whole(system: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = system.config["kind"]
    section = system.config[kind] | {"workers_per_job": 2}
    with open_client(config_in(system, workers=3, **{kind: section}), tmp_path) as opened:
        opened()
    words = "2 jobs of 2 workers submitted: cluster.workers=3 is no whole number of jobs"
    assert words in capsys.readouterr().out.splitlines()


def failing(directory: Path, name: str) -> Callable[[], str]:
    """Put a command in front of the fake's own, which refuses everything."""
    path = directory / "refusing" / name
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\necho '{name}: error: Invalid account' >&2\nexit 1\n")
    path.chmod(0o755)
    return lambda: f"{path.parent}{os.pathsep}{os.environ['PATH']}"


def message_of(config: ClusterConfig, place: Path) -> str:
    with (
        pytest.raises((ClusterFailed, InputError)) as caught,
        open_client(config, place) as opened,
    ):
        opened()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_batch_system_that_refuses_is_quoted(
    system: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = SUBMIT[system.config["kind"]]
    monkeypatch.setenv("PATH", failing(tmp_path, submit)())
    text = message_of(config_in(system), tmp_path / "place")
    assert text.startswith(f"{submit} took no job: {submit}: error: Invalid account; mend cluster.")
    assert "python -m cluster script" in text
    assert not list((tmp_path / "place").glob("keys-*"))


def test_a_directive_that_the_system_does_not_know_is_quoted(system: Place, tmp_path: Path) -> None:
    kind = system.config["kind"]
    section = system.config[kind] | {"directives": ["--sygnal=x"]}
    text = message_of(config_in(system, **{kind: section}), tmp_path)
    assert "took no job: error: unrecognized option '--sygnal'" in text


def test_a_job_that_was_never_submitted_cannot_be_cancelled(system: Place) -> None:
    cancel = {"slurm": "scancel", "pbs": "qdel"}[system.config["kind"]]
    done = subprocess.run([cancel, "77"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Invalid job id" in done.stderr
    assert batch_system.groups(Path(os.environ[batch_system.STATE])) == []
