"""Workers in places that are worse than the driver's: a disk or network that fails only there, a
source that is not mounted there; and a driver, or a scheduler, that is itself the one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, get_worker

from cluster.rules import Rules
from cluster.submit import MOST_FAULTS, run_tasks
from configs.errors import ClusterLost, LostSight
from tests.commands import run
from tests.dask_processes import scheduler, worker
from tests.test_cluster.test_faults import Notes, workers
from tests.torture.job import small_job
from tests.torture.trials import tree_hash

TASKS = {f"task-{number}": number for number in range(24)}


def fails_on_zero(number: int, where: str = "0") -> int:
    """A worker whose mount gives errors at once, where others take their time."""
    if str(get_worker().name) == where:
        raise OSError(errno.EIO, "the mount is stale")
    time.sleep(0.3)
    return number


def results(outcomes: Sequence[Any]) -> set[Any]:
    assert [outcome.error for outcome in outcomes if outcome.error is not None] == []
    return {outcome.result for outcome in outcomes}


@pytest.mark.slow
def test_what_fails_on_one_node_goes_to_another_and_the_node_goes(tmp_path: Path) -> None:
    notes = Notes()
    with workers(tmp_path, 3) as client:
        outcomes = list(run_tasks(client, fails_on_zero, TASKS, Rules(note=notes)))
        assert results(outcomes) == set(TASKS.values())
        (refused,) = notes.of("refused")
        assert f"{MOST_FAULTS} tasks in a row failed there" in refused["reason"]
        left = {str(known["name"]) for known in client.scheduler_info(-1)["workers"].values()}
    assert "0" not in left
    assert len(notes.of("retry")) < len(TASKS) - MOST_FAULTS, "it was not given all that came"


def fails_everywhere(_: int) -> int:
    raise OSError(errno.EACCES, "permission denied")


@pytest.mark.slow
def test_what_fails_everywhere_fails_after_one_more_try(tmp_path: Path) -> None:
    notes = Notes()
    with workers(tmp_path, 2) as client:
        outcomes = list(run_tasks(client, fails_everywhere, {"task-0": 0}, Rules(note=notes)))
    assert [type(outcome.error) for outcome in outcomes] == [PermissionError]
    assert len(notes.of("retry")) == 1
    assert not notes.of("refused")


def seen(path: Path) -> dict[str, str]:
    return {"disk": "to be seen" if path.exists() else "not to be seen"}


def remove_and_fail(path: Path, _: int) -> None:
    path.unlink(missing_ok=True)
    raise LostSight("the disk is gone")


@pytest.mark.slow
def test_where_the_driver_lost_sight_itself_no_worker_is_blamed(tmp_path: Path) -> None:
    disk, notes = tmp_path / "disk", Notes()
    disk.touch()
    rules = Rules[Any](note=notes, stamp=partial(seen, disk))
    with (
        workers(tmp_path / "cluster") as client,
        pytest.raises(LostSight, match="disk not to be seen there, to be seen here.*is kept"),
    ):
        list(run_tasks(client, partial(remove_and_fail, disk), {"task-0": 0}, rules))


@pytest.mark.slow
def test_a_scheduler_that_stands_still_ends_the_job_though_it_keeps_its_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.client.ANSWER_LIMIT_S", 3.0)
    with (
        scheduler(tmp_path) as (process, address),
        worker(tmp_path, address, "a"),
        Client(address) as client,
    ):
        outcomes = run_tasks(client, time.sleep, dict.fromkeys("abcdefgh", 0.5))
        next(outcomes)
        os.kill(process.process.pid, signal.SIGSTOP)
        began_s = time.monotonic()
        try:
            with pytest.raises(ClusterLost):
                list(outcomes)
            assert time.monotonic() - began_s < 20
        finally:
            os.kill(process.process.pid, signal.SIGCONT)


def may_unshare() -> bool:
    words = ["unshare", "--mount", "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.skipif(not may_unshare(), reason="needs mounts of its own: root, and `unshare`")
def test_a_worker_that_does_not_see_the_source_is_refused_by_name(tmp_path: Path) -> None:
    config = small_job(tmp_path / "job", 64, 8, seconds=1.0)
    assert run("pipeline", "shard", config, f"run={tmp_path / 'inline'}").returncode == 0
    source = tmp_path / "job" / "clips"
    blind = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(source)]
    with (
        scheduler(tmp_path) as (_, address),
        worker(tmp_path, address, "blind", prefix=blind),
        worker(tmp_path, address, "sees"),
    ):
        at = ["cluster.kind=address", f"cluster.address.scheduler={address}"]
        done = run("pipeline", "shard", config, f"run={tmp_path / 'run'}", *at)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(blind on " in done.stdout
    assert "not to be seen there, to be seen here" in done.stdout
    assert tree_hash(tmp_path / "run") == tree_hash(tmp_path / "inline")


def test_a_client_that_gave_up_its_scheduler_ends_the_job(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as client:
        outcomes = run_tasks(client, time.sleep, dict.fromkeys("abcdefgh", 0.2))
        next(outcomes)
        client.close()
        with pytest.raises(ClusterLost, match="the scheduler is gone"):
            list(outcomes)
