"""The long trials of `make torture`, in short: every part once, with few repetitions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT
from tests.torture import cluster, ingest
from tests.torture.hosts import NotHere
from tests.torture.jobs import JOBS
from tests.torture.losses import Known, reference
from tests.torture.parts import Part, main

pytestmark = pytest.mark.slow
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@needs_strace
def test_a_fault_at_a_file_system_call_leaves_a_run_that_recovers(tmp_path: Path) -> None:
    report = ingest.points(tmp_path, every=60)
    assert report["faults"] == 3 * report["points"] >= 9
    assert {"fsync", "rename", "write"} <= set(report["calls"])


def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    report = ingest.kills(tmp_path, count=6, seed=11)
    assert report["kills"] == 6
    assert report["with_partial_files"] > 0


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    report = ingest.flips(tmp_path, count=300, seed=12)
    assert report["missed"] == 0
    assert {"audio", "frames.zarr", "index", "tokens", "commits", "seals"} <= set(report["by_kind"])


def test_workers_kills_and_kernels_make_one_tree(tmp_path: Path) -> None:
    assert ingest.layouts(tmp_path, count=3, seed=13)["trees"] == 1


def test_broken_files_beside_good_ones_are_all_named(tmp_path: Path) -> None:
    report = ingest.broken(tmp_path, worker_kills=1)
    assert report["broken"] >= 200
    assert report["kinds"] >= 30
    assert report["lost"] == report["doubled"] == report["unnamed"] == 0
    assert report["worker_kills"] > 0


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """The ESC-10 job with every fourth recording, undisturbed."""
    return reference(tmp_path_factory.mktemp("known"), every=4)


def test_a_lost_worker_scheduler_or_driver_changes_nothing(tmp_path: Path, known: Known) -> None:
    report = cluster.kills(tmp_path, runs=3, seed=14, known=known)
    assert set(report["lost_at_work"]) == {"worker", "scheduler", "driver"}


def test_a_node_lost_or_frozen_or_told_to_go_changes_nothing(tmp_path: Path, known: Known) -> None:
    report = cluster.losses(tmp_path, runs=4, seed=16, known=known)
    assert len(report["lost_at_work"]) == 4


def test_jobs_of_a_batch_system_are_killed_and_replaced(tmp_path: Path) -> None:
    report = cluster.jobs(tmp_path, rounds=1, kills=2, seed=15)
    assert report["jobs_killed"] > 0
    assert report["jobs_submitted"] > JOBS, "none was replaced"


def test_a_full_disk_is_waited_for_and_nothing_is_lost(tmp_path: Path) -> None:
    with skipping_what_is_not_here():
        report = cluster.disk(tmp_path, rounds=1, seed=17)
        assert report["waited"] == 1


def test_a_link_that_is_cut_for_a_while_changes_nothing(tmp_path: Path) -> None:
    with skipping_what_is_not_here():
        cluster.link(tmp_path, rounds=1, seed=18)  # the trial itself asserts


def test_a_clip_that_kills_its_worker_becomes_one_row(tmp_path: Path) -> None:
    assert cluster.poison(tmp_path, rounds=1, seed=19)["trees"] == 1


STREAM = """
import sys
from pathlib import Path
from tests.torture.stream import kills
report = kills(Path(sys.argv[1]), count=6, seed=22)
assert report["kills"] == report["workers_killed"] + report["ranks_killed"] == 6
assert report["lost"] == report["repeated"] == 0
assert report["steps"] == 135 * report["trainings"]
"""


TRAIN = """
import sys
from pathlib import Path
from tests.torture.train import PARTS
part, count = sys.argv[2], int(sys.argv[3])
report = PARTS[part](Path(sys.argv[1]), count=count)
assert report["kills"] == count, report
assert report["trainings"] >= 1
"""


@pytest.mark.parametrize(("part", "count"), [("kills", 4), ("worlds", 2)])
def test_trainings_that_are_killed_end_as_undisturbed(
    part: str, count: int, tmp_path: Path
) -> None:
    """The trial itself asserts the same weights, or the same clips on other numbers of ranks."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, tmp_path, part, str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_readers_that_are_killed_lose_and_repeat_no_clip(tmp_path: Path) -> None:
    """In a process of its own, which forks ranks that have imported torch already."""
    done = subprocess.run(
        [sys.executable, "-c", STREAM, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def skipping_what_is_not_here() -> Iterator[None]:
    try:
        yield
    except NotHere as error:
        pytest.skip(str(error))


def test_the_command_runs_all_parts_or_those_named_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def part(name: str) -> Part:
        return lambda place: (tried.append(name), {"was_empty": not any(place.iterdir())})[1]

    def run(*words: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["made", "--directory", str(tmp_path), *words])
        assert main("made", "about nothing", {name: part(name) for name in "abc"}) == 0
        report: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return report

    assert list(run("b")) == ["torture", "b"]
    assert list(run()) == ["torture", "a", "b", "c"]
    assert tried == ["b", "a", "c"]
    assert run()["a"]["was_empty"]
    with pytest.raises(SystemExit):
        run("d")
