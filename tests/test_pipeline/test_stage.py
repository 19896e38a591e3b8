"""Around a stage's shards: what is waited for, what fails, and what the message says."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.cluster import ClusterConfig
from configs.errors import DecoderLost, IntegrityError, StageFailed, notes_of
from pipeline.stage import Stage, run_shards
from shards.commit import CommitRecord, StageLog
from shards.layout import Layout


@dataclass(frozen=True)
class Task:
    shard: int

    @property
    def title(self) -> str:
        return f"shard {self.shard:06d}"


def inline() -> None:
    return None


def run(
    log: StageLog, make: Callable[[Task], CommitRecord], tasks: Sequence[Task]
) -> list[CommitRecord]:
    """All of a stage in this process, without waiting for room on a full disk."""
    config = ClusterConfig(kind="inline", wait_for_disk_s=0)
    return run_shards(Stage(log, "f", make), tasks, config, inline)


@pytest.fixture
def log(tmp_path: Path) -> StageLog:
    return StageLog(Layout(tmp_path), "shard", "default")


def committing(log: StageLog, stamp: str = "f", fails: tuple[int, ...] = ()) -> Callable:
    def make(task: Task) -> CommitRecord:
        if task.shard in fails:
            error = OSError(5, "Input/output error", "disk")
            error.add_note("clip abc")
            raise error
        return log.commit(CommitRecord("shard", "default", task.shard, stamp, {"clips": 2}, "", ()))

    return make


def test_only_what_has_no_record_is_made(log: StageLog, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [Task(shard) for shard in range(4)]
    committing(log)(tasks[2])
    made: list[int] = []

    def make(task: Task) -> CommitRecord:
        made.append(task.shard)
        return committing(log)(task)

    records = run(log, make, tasks)
    assert [record.shard for record in records] == [0, 1, 2, 3]
    assert made == [0, 1, 3]
    assert "1 of 4 shards are committed, going on" in capsys.readouterr().out
    assert run(log, make, tasks) == records
    assert made == [0, 1, 3]
    assert "nothing to do" in capsys.readouterr().out


def test_a_failure_names_shard_and_clip_and_the_others_are_committed(log: StageLog) -> None:
    tasks = [Task(shard) for shard in range(4)]
    with pytest.raises(StageFailed) as caught:
        run(log, committing(log, fails=(1,)), tasks)
    message = str(caught.value)
    assert message.startswith("shard: 1 of 4 shards failed; the others are committed\n")
    assert "shard 000001, clip abc: OSError: [Errno 5] Input/output error: 'disk'" in message
    assert message.endswith("Mend the cause and run the same command again.")
    assert log.committed() == {0, 2, 3}


def test_an_error_for_people_comes_through_as_it_is(log: StageLog) -> None:
    def lose(_: Task) -> CommitRecord:
        raise DecoderLost("use fewer workers")

    with pytest.raises(DecoderLost, match="use fewer workers") as caught:
        run(log, lose, [Task(0)])
    assert notes_of(caught.value) == ["shard 000000"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_nothing_ends_the_stage_at_once(number: int, log: StageLog) -> None:
    tried: list[int] = []

    def make(task: Task) -> CommitRecord:
        tried.append(task.shard)
        if task.shard >= 2:
            raise OSError(number, os.strerror(number), "disk")
        return committing(log)(task)

    with pytest.raises(StageFailed, match=r"1 of 3 shards failed; the others .*; 7 more were not"):
        run(log, make, [Task(shard) for shard in range(10)])
    assert max(tried.count(shard) for shard in range(10)) <= 2
    assert log.committed() == {0, 1}


def test_many_failures_end_the_stage(log: StageLog) -> None:
    tasks = [Task(shard) for shard in range(100)]
    everything = tuple(range(100))
    with pytest.raises(StageFailed, match="16 of 16 shards failed; 84 more were not tried"):
        run(log, committing(log, fails=everything), tasks)


def test_records_of_another_recipe_are_refused(log: StageLog) -> None:
    committing(log, stamp="other")(Task(0))
    with pytest.raises(IntegrityError, match="made with another recipe"):
        run(log, committing(log), [Task(0), Task(1)])
