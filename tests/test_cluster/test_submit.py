"""Tasks: each outcome once, an error ends its own task only, a bounded number in flight."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from threading import Timer

import pytest
from distributed import Client, LocalCluster

from cluster.engines import TASKS_PER_SLOT
from cluster.launch import open_client
from cluster.submit import Outcome, run_tasks
from configs.cluster import ClusterConfig
from configs.errors import InputError, RecipeMismatch

NUM_WORKERS = 2


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    place = tmp_path_factory.mktemp("cluster")
    with open_client(ClusterConfig(kind="local", workers=NUM_WORKERS), place) as client:
        yield client()


@pytest.fixture(params=["inline", "local"])
def client(request: pytest.FixtureRequest) -> Client | None:
    return None if request.param == "inline" else request.getfixturevalue("local")


def square(number: int) -> int:
    return number * number


def odd_only(number: int) -> int:
    if number % 2 == 0:
        raise InputError(f"{number} is even")
    return number


def keyed(label: str, numbers: Iterable[int]) -> dict[str, int]:
    return {f"{label}-{place}": number for place, number in enumerate(numbers)}


def by_argument(outcomes: Iterator[Outcome[int, int]]) -> dict[int, Outcome[int, int]]:
    listed = list(outcomes)
    found = {outcome.argument: outcome for outcome in listed}
    assert len(found) == len(listed), "an outcome came twice"
    return found


@pytest.mark.parametrize("num_tasks", [0, 1, 30])
def test_every_task_has_one_outcome(num_tasks: int, client: Client | None) -> None:
    found = by_argument(run_tasks(client, square, keyed("square", range(num_tasks))))
    assert {argument: outcome.result for argument, outcome in found.items()} == {
        number: number * number for number in range(num_tasks)
    }


def test_an_error_ends_its_own_task_only(client: Client | None) -> None:
    found = by_argument(run_tasks(client, odd_only, keyed("odd", range(12))))
    assert sorted(found) == list(range(12))
    for number, outcome in found.items():
        if number % 2:
            assert (outcome.result, outcome.error) == (number, None)
        else:
            assert outcome.result is None
            assert isinstance(outcome.error, InputError)
            assert str(outcome.error) == f"{number} is even"


def test_equal_arguments_are_tasks_of_their_own(client: Client | None) -> None:
    outcomes = list(run_tasks(client, square, keyed("same", [3, 3, 3])))
    assert [outcome.result for outcome in outcomes] == [9, 9, 9]


def test_a_key_may_be_used_again(client: Client | None) -> None:
    for function, expected in ((square, 25), (abs, 5)):
        (outcome,) = run_tasks(client, function, keyed("again", [-5]))
        assert outcome.result == expected


def test_inline_tasks_run_in_order_as_they_are_asked_for() -> None:
    started: list[int] = []
    outcomes = run_tasks(None, started.append, keyed("order", range(5)))
    assert next(outcomes).argument == 0
    assert started == [0]
    assert [outcome.argument for outcome in outcomes] == [1, 2, 3, 4]


def test_a_signal_ends_all_inline_tasks() -> None:
    def task(number: int) -> int:
        started.append(number)
        raise KeyboardInterrupt  # what SIGINT and SIGTERM become

    started: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        list(run_tasks(None, task, keyed("stopped", range(5))))
    assert started == [0]


def leave_trace(directory: Path, number: int) -> int:
    (directory / str(number)).touch()
    return number


def test_few_tasks_start_before_their_turn(local: Client, tmp_path: Path) -> None:
    outcomes = run_tasks(local, partial(leave_trace, tmp_path), keyed("trace", range(40)))
    most_in_flight = TASKS_PER_SLOT * NUM_WORKERS
    for num_read in range(1, 4):
        next(outcomes)
        time.sleep(0.3)  # what is to start has started
        assert len(list(tmp_path.iterdir())) <= num_read + most_in_flight
        assert len(local.futures) <= most_in_flight
    assert len(list(outcomes)) == 37
    assert len(list(tmp_path.iterdir())) == 40


def test_no_future_is_held_at_the_end(local: Client) -> None:
    assert len(list(run_tasks(local, square, keyed("held", range(9))))) == 9
    deadline_s = time.monotonic() + 5
    while local.futures and time.monotonic() < deadline_s:
        time.sleep(0.01)  # the client lets go in a thread of its own
    assert not local.futures


def mismatch(number: int) -> int:
    raise RecipeMismatch("run", [f"k: {number}"], "Ask again.")


def test_an_error_with_parts_comes_back_as_itself(local: Client) -> None:
    (outcome,) = run_tasks(local, mismatch, keyed("mismatch", [1]))
    assert isinstance(outcome.error, RecipeMismatch)
    assert "k: 1" in str(outcome.error)


def test_tasks_wait_for_workers_that_come_late() -> None:
    with (
        LocalCluster(
            n_workers=0, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        timer = Timer(0.3, cluster.scale, [1])
        timer.start()
        outcomes = list(run_tasks(client, square, keyed("late", range(5))))
        timer.join()
    assert sorted(outcome.result or 0 for outcome in outcomes) == [0, 1, 4, 9, 16]
