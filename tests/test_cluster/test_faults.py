"""Workers that die, freeze, differ or never come; disks that fail or fill: the job goes on, or
says what is missing."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, LocalCluster

from cluster.launch import open_client
from cluster.rules import Bisection, Rules
from cluster.submit import run_tasks
from configs.cluster import ClusterConfig
from configs.errors import ClusterFailed, ClusterLost
from tests.dask_processes import PLAIN, scheduler
from tests.processes import family, wait_until

QUICK = {"distributed": {"scheduler": {"worker-ttl": "6s"}}}
PIECES = tuple(f"piece{number}" for number in range(13))


@contextmanager
def workers(place: Path, count: int = 2, **over: Any) -> Iterator[Client]:
    config = ClusterConfig(kind="local", workers=count, dask=QUICK, **over)
    with open_client(config, place) as client:
        opened = client()
        assert opened is not None
        yield opened


class Notes:
    """Events as they come."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, **event: Any) -> None:
        self.events.append(event)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def work(directory: Path, argument: tuple[str, Sequence[str]]) -> str:
    """Leaves a trace; a task with the piece that kills does not get that far."""
    name, pieces = argument
    with (directory / f"{name}.starts").open("a") as file:
        file.write("x")
    die_of(argument)
    time.sleep(0.05)
    (directory / f"{name}.done").touch()
    return f"{name} {len(pieces)}"


def die_of(argument: tuple[Any, Sequence[str]]) -> None:
    if "piece7" in argument[1]:
        time.sleep(0.2)  # long enough for the word that it has begun to leave the worker
        os.kill(os.getpid(), signal.SIGKILL)


def pieces_of(argument: tuple[str, Sequence[str]]) -> Sequence[str]:
    return argument[1]


def without(
    argument: tuple[str, Sequence[str]], guilty: Sequence[str]
) -> tuple[str, Sequence[str]]:
    return argument[0], [piece for piece in argument[1] if piece not in guilty]


def starts(directory: Path, name: str) -> int:
    return len((directory / f"{name}.starts").read_text())


def test_the_piece_that_kills_its_worker_is_left_out_and_no_neighbour_suffers(
    tmp_path: Path,
) -> None:
    notes = Notes()
    rules = Rules[Any](note=notes, bisection=Bisection(pieces_of, die_of, without))
    arguments: dict[str, Any] = {f"good-{i}": (f"good-{i}", ("a", "b")) for i in range(10)}
    arguments["bad-0"] = ("bad-0", PIECES)
    with workers(tmp_path) as client:
        outcomes = list(run_tasks(client, partial(work, tmp_path), arguments, rules))
    assert {outcome.result for outcome in outcomes} == {
        "bad-0 12",
        *(f"good-{i} 2" for i in range(10)),
    }
    assert outcomes[-1].result == "bad-0 12", "it must not be tried again beside others"
    assert [event["pieces"] for event in notes.of("isolated")] == [["piece7"]]
    assert starts(tmp_path, "bad-0") == 4, "twice beside others, alone, and without the piece"
    assert max(starts(tmp_path, f"good-{i}") for i in range(10)) <= 2


def test_a_task_that_nothing_can_be_left_out_of_fails_after_all_attempts(tmp_path: Path) -> None:
    arguments = {"bad-0": ("bad-0", PIECES), "good-0": ("good-0", ())}
    with workers(tmp_path) as client:
        outcomes = list(run_tasks(client, partial(work, tmp_path), arguments))
    by_name = {outcome.argument[0]: outcome for outcome in outcomes}
    assert by_name["good-0"].result == "good-0 0"
    assert "its worker died 6 times" in str(by_name["bad-0"].error)
    assert starts(tmp_path, "bad-0") == 6


def sleepy(directory: Path, seconds: float, name: str) -> str:
    with (directory / f"{name}.starts").open("a") as file:
        file.write("x")
    (directory / f"{name}.pid").write_text(str(os.getpid()))
    time.sleep(seconds)
    return name


def wait_for(path: Path) -> str:
    wait_until(lambda: path.exists() and path.read_text(), str(path), 20.0)
    return path.read_text()


@contextmanager
def beside(action: Any) -> Iterator[None]:
    """Do something while the loop runs in this thread."""
    from threading import Thread

    thread = Thread(target=action)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


def names(count: int) -> dict[str, str]:
    return {f"sleepy-{i}": f"sleepy-{i}" for i in range(count)}


def test_a_killed_worker_costs_the_task_in_its_hands_only(tmp_path: Path) -> None:
    def kill() -> None:
        pid = int(wait_for(tmp_path / "sleepy-3.pid"))
        time.sleep(0.15)  # the receipt of the task before is no longer with the worker
        os.kill(pid, signal.SIGKILL)

    notes = Notes()
    with workers(tmp_path) as client, beside(kill):
        outcomes = list(
            run_tasks(client, partial(sleepy, tmp_path, 0.3), names(12), Rules(note=notes))
        )
    assert sorted(outcome.result or "" for outcome in outcomes) == sorted(names(12))
    begun = sum(starts(tmp_path, name) for name in names(12))
    assert begun == 13, "only what the dead worker had begun is begun again"
    assert [event["task"] for event in notes.of("killed")].count("sleepy-3") == 1
    assert {"start", "killed", "retry", "done"} <= {event["event"] for event in notes.events}
    assert all(event["pid"] and event["host"] for event in notes.of("start"))


@pytest.mark.slow
def test_a_frozen_worker_that_thaws_late_does_no_harm(tmp_path: Path) -> None:
    frozen: list[int] = []

    def freeze() -> None:
        frozen.append(int(wait_for(tmp_path / "sleepy-0.pid")))
        os.kill(frozen[0], signal.SIGSTOP)

    with workers(tmp_path) as client, beside(freeze):
        outcomes = list(run_tasks(client, partial(sleepy, tmp_path, 0.5), names(4)))
        if psutil.pid_exists(frozen[0]):
            os.kill(frozen[0], signal.SIGCONT)
    assert sorted(outcome.result or "" for outcome in outcomes) == sorted(names(4))
    assert starts(tmp_path, "sleepy-0") == 2


def failing(directory: Path, code: int, times: int, name: str) -> str:
    with (directory / f"{name}.starts").open("a") as file:
        file.write("x")
    if starts(directory, name) <= times:
        raise OSError(code, os.strerror(code), "frames")
    return name


def test_a_fault_of_a_disk_is_tried_once_more(tmp_path: Path) -> None:
    for times, ends_well in ((1, True), (2, False)):
        name = f"io-{times}"
        task = partial(failing, tmp_path, errno.EIO, times)
        (outcome,) = run_tasks(None, task, {name: name})
        assert (outcome.result == name) is ends_well
        assert starts(tmp_path, name) == 2


def test_a_full_disk_waits_for_room(tmp_path: Path) -> None:
    asked: list[OSError] = []

    def make_room(error: OSError, num_in_flight: int) -> bool:
        asked.append(error)
        return len(asked) < 3

    rules = Rules[str](make_room=make_room)
    (outcome,) = run_tasks(None, partial(failing, tmp_path, errno.ENOSPC, 2), {"a": "a"}, rules)
    assert outcome.result == "a"
    (outcome,) = run_tasks(None, partial(failing, tmp_path, errno.EDQUOT, 9), {"b": "b"}, rules)
    assert isinstance(outcome.error, OSError)
    assert len(asked) == 3


def versions() -> dict[str, str]:
    return {"soxr": os.environ.get("PRETENDED_SOXR", "1.0.0")}


@contextmanager
def worker_process(address: str, *words: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real `dask worker`, ended with all below it."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"),
            *(*PLAIN, "--host", "127.0.0.1", *words),
        ],
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield process
    finally:
        below = family(process.pid)[1:]
        process.terminate()
        process.wait(30)
        for child in filter(psutil.Process.is_running, below):
            child.kill()


def test_a_worker_with_other_versions_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = Notes()
    with workers(tmp_path, 1) as client:
        address = client.scheduler_info()["address"]
        with worker_process(address, "--name", "stranger", PRETENDED_SOXR="0.9.0") as stranger:
            client.wait_for_workers(2, timeout=30)
            rules = Rules[str](note=notes, stamp=versions)
            outcomes = list(run_tasks(client, partial(sleepy, tmp_path, 0.2), names(8), rules))
            assert stranger.wait(30) == 0, "a refused worker goes"
    assert sorted(outcome.result or "" for outcome in outcomes) == sorted(names(8))
    (refused,) = {event["worker"] for event in notes.of("refused")}
    said = capsys.readouterr().out
    assert f"worker {refused} (stranger on {socket.gethostname()}) is refused" in said
    assert "soxr 0.9.0 there, 1.0.0 here" in said
    assert sum(starts(tmp_path, name) for name in names(8)) == 8


def test_tasks_go_on_when_those_that_they_were_meant_for_have_gone(tmp_path: Path) -> None:
    """A refused worker of a cluster that others use, too, stays: tasks name the others."""
    notes = Notes()
    with (
        scheduler(tmp_path) as (_, address),
        worker_process(address, "--name", "goes") as goes,
        worker_process(address, "--name", "stranger", PRETENDED_SOXR="0.9.0") as stranger,
        Client(address) as client,
        ExitStack() as stack,
    ):
        client.wait_for_workers(2, timeout=30)

        def replace() -> None:
            wait_until(lambda: notes.of("refused") and notes.of("start"), "work, and a refusal")
            goes.terminate()
            goes.wait(30)
            stack.enter_context(worker_process(address, "--name", "comes"))

        rules = Rules[str](
            config=ClusterConfig(kind="address", wait_for_workers_s=30), stamp=versions, note=notes
        )
        with beside(replace):
            outcomes = list(run_tasks(client, partial(sleepy, tmp_path, 0.4), names(8), rules))
        assert stranger.poll() is None
    assert sorted(outcome.result or "" for outcome in outcomes) == sorted(names(8))
    assert {event["name"] for event in notes.of("start")} == {"goes", "comes"}


def test_workers_that_are_all_refused_end_the_job(tmp_path: Path) -> None:
    with (
        workers(tmp_path, 1) as client,
        pytest.raises(ClusterFailed, match=r"1 worker refused, and no other is left; .*, 7 here\."),
    ):
        list(run_tasks(client, partial(sleepy, tmp_path, 0), names(2), Rules(stamp=odd_one)))


def odd_one() -> dict[str, str]:
    return {"number": str(os.getpid() if "spawn_main" in " ".join(sys.orig_argv) else 7)}


def deep(depth: int) -> int:
    if depth:
        return deep(depth - 1) + 1
    raise ValueError("from far below")


def test_an_error_with_a_deep_traceback_comes_back(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as client:
        (outcome,) = run_tasks(client, deep, {"deep-0": 500})
    assert (type(outcome.error), str(outcome.error)) == (ValueError, "from far below")


def test_a_cluster_that_begins_with_no_worker_sees_that_there_is_work(tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        cluster.adapt(minimum=0, maximum=1, interval="200ms")
        rules = Rules[str](config=ClusterConfig(kind="address", wait_for_workers_s=30))
        outcomes = list(run_tasks(client, partial(sleepy, tmp_path, 0), names(3), rules))
    assert sorted(outcome.result or "" for outcome in outcomes) == sorted(names(3))


def test_tasks_that_want_what_no_worker_has_are_not_waited_for_for_ever(tmp_path: Path) -> None:
    with workers(tmp_path, 1, wait_for_workers_s=2.0) as client:
        config = ClusterConfig(wait_for_workers_s=2.0)
        rules = Rules[str](config=config, resources={"GPU": 1})
        with pytest.raises(ClusterFailed, match="no worker with GPU=1 came within 2 s"):
            list(run_tasks(client, partial(sleepy, tmp_path, 0), names(1), rules))


def test_tasks_go_to_the_workers_that_have_what_they_want(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as client:
        address = client.scheduler_info()["address"]
        with worker_process(address, "--name", "gpu", "--resources", "GPU=1"):
            client.wait_for_workers(2, timeout=30)
            rules = Rules[str](resources={"GPU": 1})
            list(run_tasks(client, partial(sleepy, tmp_path, 0), names(4), rules))
            pids = {(tmp_path / f"{name}.pid").read_text() for name in names(4)}
            others = client.run(os.getpid)
    assert len(pids) == 1
    assert len(others) == 2


def test_a_job_that_stands_still_writes_down_its_state_and_ends(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as client:
        rules = Rules[str](config=ClusterConfig(stall_s=2.0), home=tmp_path / "cluster")
        with pytest.raises(ClusterLost, match="no task has ended for") as caught:
            list(run_tasks(client, partial(sleepy, tmp_path, 60), names(2), rules))
    (dump,) = (tmp_path / "cluster").glob("stall-*.yaml")
    assert str(dump) in str(caught.value)
    assert "sleepy-0" in dump.read_text()
