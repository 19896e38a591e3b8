"""What a job takes at scale: figures that follow from one another, for any size of job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import estimate
from pipeline.scale import (
    SCHEDULER_MS_PER_TASK,
    SHARD_OVERHEAD_S,
    SOURCE_BYTES_PER_AUDIO_S,
    WIDTH,
    Job,
    describe,
    driver_s,
    load,
    most_workers,
    record_bytes,
    seconds_at,
    size,
)
from pipeline.sources import read_source
from shards.plan import clip_table
from tests.conftest import MakeConfig

NUM_WORKERS = st.integers(1, 5_000)


def job(num_tasks: int, clips_each: int, **written_bytes: float) -> Job:
    """Of ten-second clips, 1 MB each."""
    num_clips = num_tasks * clips_each
    return Job(num_tasks, num_clips, 10.0 * num_clips, 2.0, 1e6 * num_clips, written_bytes)


JOBS = st.builds(
    lambda tasks, clips, clip_bytes: job(tasks, clips, frames=tasks * clips * clip_bytes),
    st.integers(1, 20_000),
    st.integers(1, 2_048),
    st.floats(0, 1e7),
)


def test_a_job_by_hand() -> None:
    asked = load(job(100, 1_000, frames=4e9, index=1e9), 8)
    task_s = 20.0 + SHARD_OVERHEAD_S
    assert asked.seconds == pytest.approx(13 * task_s + 0.6 + 0.5)  # 12 rounds and a half; driver
    assert asked.tasks_per_s == pytest.approx(8 / task_s)
    assert asked.scheduler_share == pytest.approx(8 / task_s * SCHEDULER_MS_PER_TASK / 1e3)
    assert asked.read_mb_per_s == pytest.approx(8 * 1_000 / task_s)
    assert asked.write_mb_per_s == pytest.approx(8 * 50 / task_s)
    assert seconds_at(job(100, 1_000), 8, read_mb_per_s=100) == pytest.approx(1_000 + 1.1)
    assert seconds_at(job(100, 1_000), 8, read_mb_per_s=1e6) == asked.seconds


@given(JOBS, NUM_WORKERS, NUM_WORKERS)
def test_more_workers_never_take_longer(job: Job, some: int, others: int) -> None:
    few, many = sorted((some, others))
    assert load(job, many).seconds <= load(job, few).seconds
    assert load(job, many).read_mb_per_s >= load(job, few).read_mb_per_s


@given(JOBS, NUM_WORKERS)
def test_no_place_is_faster_than_its_cores_or_its_scheduler(job: Job, num_workers: int) -> None:
    asked = load(job, num_workers)
    work_s = job.num_tasks * job.task_s
    assert asked.seconds - driver_s(job) >= work_s / num_workers * (1 - 1e-9)
    assert asked.scheduler_share <= 1 + 1e-9
    if num_workers <= most_workers(job):
        one_round_more_s = work_s / num_workers + job.task_s
        assert asked.seconds - driver_s(job) <= one_round_more_s * (1 + 1e-9)


@given(JOBS)
def test_what_is_said_fits_into_its_columns(job: Job) -> None:
    lines = describe(job, "by the size of 200 of its files")
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.startswith("256 workers") for line in lines) == 1


@given(st.floats(0, 9e14))
def test_sizes_are_near_the_bytes(num_bytes: float) -> None:
    number, unit = size(num_bytes).split()
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * scale == pytest.approx(num_bytes, rel=0.006, abs=0.51)


def test_files_that_are_there_are_weighed(made_clips: Path, make_config: MakeConfig) -> None:
    source = make_config().source
    clips = read_source(source).clips
    true_bytes = sum(path.stat().st_size for path in (made_clips / "audio").glob("*.flac"))
    assert estimate.source_bytes(source.root, clips) == (
        true_bytes,
        "by the size of 64 of its files",
    )


def sized(**columns: object) -> Mapping[str, object]:
    return {"id": ["a", "b"], "path": ["a.flac", "b.flac"], **columns}


@pytest.mark.parametrize(
    ("columns", "num_bytes", "why"),
    [
        (sized(num_bytes=[10, 20]), 30.0, "as the lists say"),
        (sized(duration_s=[2.0, None]), 12 * SOURCE_BYTES_PER_AUDIO_S, "assumed: "),
        (sized(row_group=[0, 0], row=[0, 1]), 20 * SOURCE_BYTES_PER_AUDIO_S, "assumed: "),
    ],
)
def test_files_that_are_not_there_are_taken_from_lists_or_assumed(
    tmp_path: Path, columns: Mapping[str, object], num_bytes: float, why: str
) -> None:
    found, said = estimate.source_bytes(str(tmp_path), clip_table(2, columns))
    assert found == pytest.approx(num_bytes)
    assert said.startswith(why)


def test_the_small_files_are_near_the_truth(tokenized: object) -> None:
    """Within a factor of two of what 8 shards of 8 clips took: records, that is; the index of so
    few clips is mostly Parquet's own."""
    run: Path = tokenized.run  # type: ignore[attr-defined]
    taken = sum(path.stat().st_size for path in run.glob("commits/shard/default/0*.json"))
    assert 0.5 < taken / record_bytes(8, 64) < 2


def test_flac_is_paid_for_where_it_is_stored(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for store in ("flac", "source", "none"):
        assert estimate.run(make_config(audio={"store": store})) == 0
        out = capsys.readouterr().out
        said[store] = (
            re.search(r"audio (\S+ \S+),", out)[1],
            re.search(r"\((\S+) ms a second", out)[1],
        )
    assert said["none"] == ("0 B", "1.65")
    assert said["flac"][1] == "2.1"
    assert said["source"][0] not in ("0 B", said["flac"][0])
